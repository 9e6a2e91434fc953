use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;
use tempfile::TempDir;

/// A runtime's directories that do not exist yet, and a plugin to install.
fn installer() -> (TempDir, Installer) {
    let directory = tempfile::tempdir().unwrap();
    let below = |name: &str| directory.path().join(name);
    let places = RuntimePlaces { configurations: below("net.d"), plugins: below("bin"), list_name: DEFAULT_LIST_NAME.to_owned() };
    let mut installer = Installer::new(places, Template::default()).unwrap();
    installer.source = below("plugin");
    fs::write(&installer.source, "first").unwrap();
    (directory, installer)
}

fn permissions(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn both_files_are_put_there_once() {
    let (_directory, mut installer) = installer();
    let files = installer.ensure().unwrap();
    assert_eq!((permissions(&files.list), permissions(&files.plugin)), (0o600, 0o755));
    assert_eq!(fs::read(&files.plugin).unwrap(), b"first");
    assert_eq!(files.notices.len(), 2, "neither portmap nor bandwidth is there: {:?}", files.notices);
    assert_eq!(files.problems, Vec::<String>::new());
    let when = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let before = (when(&files.list), when(&files.plugin));
    let again = installer.ensure().unwrap();
    assert_eq!((when(&again.list), when(&again.plugin)), before, "written without a reason");
}

#[tokio::test]
async fn what_is_changed_or_removed_is_put_back() {
    let (_directory, mut installer) = installer();
    let files = installer.ensure().unwrap();
    let list = fs::read(&files.list).unwrap();
    let changes: [(&str, &dyn Fn()); 6] = [
        ("the list is removed", &|| fs::remove_file(&files.list).unwrap()),
        ("the list is changed", &|| fs::write(&files.list, "{}").unwrap()),
        ("the list is readable by all", &|| fs::set_permissions(&files.list, fs::Permissions::from_mode(0o644)).unwrap()),
        ("the list is a link", &|| {
            fs::rename(&files.list, files.list.with_extension("moved")).unwrap();
            symlink(files.list.with_extension("moved"), &files.list).unwrap();
        }),
        ("the plugin is another of the same size", &|| fs::write(&files.plugin, "other").unwrap()),
        ("the directory is gone", &|| fs::remove_dir_all(files.plugin.parent().unwrap()).unwrap()),
    ];
    for (what, change) in changes {
        change();
        let noticed = tokio::time::timeout(Duration::from_secs(1), installer.changed()).await;
        assert!(noticed.is_ok(), "{what}, and nothing was noticed");
        let files = installer.ensure().unwrap();
        assert!(fs::symlink_metadata(&files.list).unwrap().is_file(), "{what}");
        assert_eq!((fs::read(&files.list).unwrap(), permissions(&files.list)), (list.clone(), 0o600), "{what}");
        assert_eq!((fs::read(&files.plugin).unwrap(), permissions(&files.plugin)), (b"first".to_vec(), 0o755), "{what}");
    }
}

#[tokio::test]
async fn another_agents_plugin_replaces_the_old_one() {
    let (_directory, mut installer) = installer();
    installer.ensure().unwrap();
    fs::write(&installer.source, "second").unwrap();
    let files = installer.ensure().unwrap();
    assert_eq!(fs::read(files.plugin).unwrap(), b"second");
}

#[tokio::test]
async fn a_plugin_of_the_chain_that_comes_later_is_chained() {
    let (_directory, mut installer) = installer();
    let files = installer.ensure().unwrap();
    assert!(!fs::read_to_string(&files.list).unwrap().contains("portmap"));
    fs::write(files.plugin.with_file_name("portmap"), "").unwrap();
    tokio::time::timeout(Duration::from_secs(1), installer.changed()).await.expect("a new plugin is noticed");
    let files = installer.ensure().unwrap();
    assert!(fs::read_to_string(&files.list).unwrap().contains("portmap") && files.notices.len() == 1, "{:?}", files.notices);
}

#[tokio::test]
async fn a_list_that_a_runtime_takes_before_ours_is_named() {
    let (_directory, mut installer) = installer();
    installer.ensure().unwrap();
    let other = |name: &str| installer.places.configurations.join(name);
    for name in ["99-later.conflist", "10-flannel.conflist.bak", "00-README"] {
        fs::write(other(name), "").unwrap();
    }
    fs::write(other("10-flannel.conflist"), "").unwrap();
    let files = installer.ensure().unwrap();
    let [problem] = files.problems.as_slice() else { panic!("{:?}", files.problems) };
    assert!(problem.contains("10-flannel.conflist sorts before"), "{problem}");
}

#[tokio::test]
async fn an_operators_list_is_not_given_to_a_runtime_that_would_fail_with_it() {
    let (_directory, mut installer) = installer();
    installer.template = Template::parse(
        r#"{ "cniVersion": "0.4.0", "name": "own", "plugins": [{ "type": "overlay-cni" }, { "type": "tuning" }, { "type": "portmap" }] }"#,
    )
    .unwrap();
    let error = installer.ensure().unwrap_err();
    assert!(error.to_string().contains("names tuning and portmap"), "{error}");
    assert!(!installer.places.list().exists());
}

#[tokio::test]
async fn removal_takes_both_and_nothing_else() {
    let (_directory, mut installer) = installer();
    let files = installer.ensure().unwrap();
    let others = [files.list.with_file_name("20-other.conflist"), files.plugin.with_file_name("bridge")];
    for other in &others {
        fs::write(other, "").unwrap();
    }
    assert_eq!(installer.places.remove().unwrap(), [files.list, files.plugin]);
    assert!(others.iter().all(|other| other.exists()));
    assert_eq!(installer.places.remove().unwrap(), Vec::<PathBuf>::new());
}
