//! The file source against a real file system and real inotify: every way a file changes in practice.

mod support;

use overlay_agent::cluster::{Health, SourceState, Subscription, file};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{expected, node, snapshot, state, stays};
use tempfile::TempDir;

/// So long that only events can be the cause of what a test sees.
const NEVER: Duration = Duration::from_hours(1);
/// Several times what the source waits for a file to settle.
const A_WHILE: Duration = Duration::from_millis(700);

struct Nodes {
    directory: TempDir,
}

impl Nodes {
    fn new(numbers: &[u8]) -> Self {
        let nodes = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        fs::write(nodes.path(), text(numbers)).unwrap();
        nodes
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("nodes.yaml")
    }

    fn replace(&self, numbers: &[u8]) {
        let new = self.directory.path().join("new");
        fs::write(&new, text(numbers)).unwrap();
        fs::rename(new, self.path()).unwrap();
    }
}

fn text(numbers: &[u8]) -> String {
    yaml(&list(&numbers.iter().map(|number| node(*number)).collect::<Vec<_>>()))
}

/// A list as kubectl prints it.
fn list(nodes: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "items": nodes, "kind": "List", "metadata": { "resourceVersion": "" } })
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap()
}

fn failing(state: &SourceState) -> bool {
    state.health == Health::Failing
}

fn healthy(state: &SourceState) -> bool {
    state.health == Health::Healthy
}

async fn followed(path: &Path, numbers: &[u8]) -> Subscription {
    let mut source = file::follow(path.to_owned(), NEVER);
    snapshot(&mut source, &expected(numbers)).await;
    state(&mut source, healthy).await;
    source
}

#[tokio::test]
async fn reads_the_file_as_kubectl_printed_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nodes.yaml");
    let mut source = file::follow(path, NEVER);
    let wanted = "cp-1 192.0.2.11 10.244.0.0/24, worker-1 192.0.2.21 10.244.1.0/24, worker-2 192.0.2.22 10.244.2.0/24";
    snapshot(&mut source, wanted).await;
}

#[tokio::test]
async fn sees_a_replacement_by_rename() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    for numbers in [&[1, 2, 3][..], &[3], &[1, 2, 3, 4, 5]] {
        nodes.replace(numbers);
        snapshot(&mut source, &expected(numbers)).await;
    }
}

#[tokio::test]
async fn sees_an_edit_in_place() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    for numbers in [&[1, 2, 3][..], &[3], &[1, 2, 3, 4, 5]] {
        fs::write(nodes.path(), text(numbers)).unwrap();
        snapshot(&mut source, &expected(numbers)).await;
    }
}

#[tokio::test]
async fn sees_a_changed_address_and_a_changed_pod_network() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    let mut moved = node(2);
    moved["status"]["addresses"][0]["address"] = "198.51.100.2".into();
    fs::write(nodes.path(), yaml(&list(&[node(1), moved.clone()]))).unwrap();
    snapshot(&mut source, "node-1 192.0.2.1 10.244.1.0/24, node-2 198.51.100.2 10.244.2.0/24").await;
    moved["spec"]["podCIDRs"][0] = "10.244.99.0/24".into();
    fs::write(nodes.path(), yaml(&list(&[moved, node(1)]))).unwrap();
    snapshot(&mut source, "node-1 192.0.2.1 10.244.1.0/24, node-2 198.51.100.2 10.244.99.0/24").await;
}

#[tokio::test]
async fn keeps_the_last_list_while_the_file_is_gone_and_sees_it_return() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    fs::remove_file(nodes.path()).unwrap();
    let state_now = state(&mut source, failing).await;
    assert!(state_now.last_error.unwrap().message.contains("No such file"));
    stays(&mut source.topology, A_WHILE).await;
    fs::write(nodes.path(), text(&[1, 2, 3])).unwrap();
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
    let state_now = state(&mut source, healthy).await;
    assert!(state_now.last_error.is_some(), "what went wrong is still told");
}

#[tokio::test]
async fn waits_for_a_file_and_a_directory_that_do_not_exist_yet() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("later");
    let mut source = file::follow(directory.join("nodes.yaml"), NEVER);
    state(&mut source, failing).await;
    assert!(source.topology.borrow().is_none());
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("nodes.yaml"), text(&[1])).unwrap();
    snapshot(&mut source, &expected(&[1])).await;
}

#[tokio::test]
async fn follows_a_directory_that_is_made_anew() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("nodes");
    let path = directory.join("nodes.yaml");
    fs::create_dir(&directory).unwrap();
    fs::write(&path, text(&[1])).unwrap();
    let mut source = followed(&path, &[1]).await;
    fs::remove_dir_all(&directory).unwrap();
    state(&mut source, failing).await;
    fs::create_dir(&directory).unwrap();
    fs::write(&path, text(&[1, 2])).unwrap();
    snapshot(&mut source, &expected(&[1, 2])).await;
    // And is watched again, not only looked at.
    fs::write(&path, text(&[2])).unwrap();
    snapshot(&mut source, &expected(&[2])).await;
}

/// As kubelet updates a mounted `ConfigMap`: `nodes.yaml` leads to `..data/nodes.yaml`, `..data` to `..<time>`, and `..data` is replaced by rename.
#[tokio::test]
async fn sees_the_link_swap_of_a_config_map() {
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    let publish = |version: &str, numbers: &[u8]| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("nodes.yaml"), text(numbers)).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    publish("..2026_01", &[1, 2]);
    symlink("..data/nodes.yaml", at("nodes.yaml")).unwrap();
    let mut source = followed(&at("nodes.yaml"), &[1, 2]).await;
    publish("..2026_02", &[1, 2, 3]);
    fs::remove_dir_all(at("..2026_01")).unwrap();
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
    publish("..2026_03", &[3]);
    fs::remove_dir_all(at("..2026_02")).unwrap();
    snapshot(&mut source, &expected(&[3])).await;
}

#[tokio::test]
async fn sees_an_edit_of_a_file_behind_a_link_into_another_directory() {
    let nodes = Nodes::new(&[1]);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.yaml");
    symlink(nodes.path(), &link).unwrap();
    let mut source = followed(&link, &[1]).await;
    fs::write(nodes.path(), text(&[1, 2])).unwrap();
    snapshot(&mut source, &expected(&[1, 2])).await;
    nodes.replace(&[2]);
    snapshot(&mut source, &expected(&[2])).await;
}

/// A list of nodes 1 to 4 with `kind` first, cut behind the first node. Both parts: nothing but the open file tells that the first is not
/// the whole.
fn two_halves() -> (String, String) {
    let whole = yaml(&list(&[node(1), node(2), node(3), node(4)]));
    let whole = whole.replace("kind: List\n", "").replace("apiVersion: v1\nitems", "kind: List\nitems");
    let items: Vec<usize> = whole.match_indices("- apiVersion: v1\n  kind: Node\n").map(|(at, _)| at).collect();
    let (head, tail) = whole.split_at(items[1]);
    let head = head.trim_end_matches(' ');
    assert!(head.starts_with("kind: List\n") && items.len() == 4, "{head}");
    (head.to_owned(), format!("{}{tail}", &whole[head.len()..items[1]]))
}

#[tokio::test]
async fn never_reads_a_file_its_writer_has_not_closed() {
    let nodes = Nodes::new(&[1, 2, 3]);
    let mut source = followed(&nodes.path(), &[1, 2, 3]).await;
    let (head, tail) = two_halves();
    assert_eq!(overlay_agent::cluster::list::parse(&head).unwrap().len(), 1);
    for made_anew in [false, true] {
        if made_anew {
            fs::remove_file(nodes.path()).unwrap();
            state(&mut source, failing).await;
        }
        let mut file = fs::File::create(nodes.path()).unwrap();
        file.write_all(head.as_bytes()).unwrap();
        file.flush().unwrap();
        // Events about other files must not be mistaken for the end of the writing.
        fs::write(nodes.directory.path().join("other"), "x").unwrap();
        stays(&mut source.topology, A_WHILE).await;
        file.write_all(tail.as_bytes()).unwrap();
        drop(file);
        snapshot(&mut source, &expected(&[1, 2, 3, 4])).await;
        state(&mut source, healthy).await;
    }
}

#[tokio::test]
async fn sees_a_link_that_is_pointed_at_another_file() {
    let nodes = Nodes::new(&[1]);
    let other = nodes.directory.path().join("other.yaml");
    fs::write(&other, text(&[1, 2])).unwrap();
    let link = nodes.directory.path().join("link.yaml");
    symlink("nodes.yaml", &link).unwrap();
    let mut source = followed(&link, &[1]).await;
    fs::remove_file(&link).unwrap();
    state(&mut source, failing).await;
    symlink("other.yaml", &link).unwrap();
    snapshot(&mut source, &expected(&[1, 2])).await;
}

#[tokio::test]
async fn what_is_no_whole_list_changes_nothing_and_is_told() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    let good = text(&[1, 2, 3]);
    let cut = &good[..good.len() / 2];
    for (bad, told) in [
        ("", "it is empty"),
        (cut, ""),
        ("\u{0}\u{1}", "it is not YAML"),
        ("hello: world\n", "it has no `kind: List` at its end"),
        ("kind: List\nitems: []\n", "it lists no node at all"),
        ("{\"kind\": \"List\", \"items\": [", "it is not JSON"),
    ] {
        fs::write(nodes.path(), bad).unwrap();
        let state_now =
            state(&mut source, |state| failing(state) && state.last_error.as_ref().is_some_and(|error| error.message.contains(told))).await;
        assert!(state_now.last_error.unwrap().message.contains("nodes.yaml is not a list of nodes: "));
        stays(&mut source.topology, Duration::from_millis(300)).await;
        fs::write(nodes.path(), text(&[1, 2])).unwrap();
        state(&mut source, healthy).await;
    }
    fs::write(nodes.path(), [0xff, 0xfe, 0x00]).unwrap();
    state(&mut source, failing).await;
    nodes.replace(&[1, 2, 3]);
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
}

#[tokio::test]
async fn one_bad_node_does_not_spoil_the_others() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    let mut bad = node(3);
    bad["spec"]["podCIDRs"][0] = "10.244.3.3/24".into();
    fs::write(nodes.path(), yaml(&list(&[node(1), bad, node(4)]))).unwrap();
    let topology = snapshot(&mut source, &expected(&[1, 4])).await;
    assert_eq!(topology.rejected[0].reason, "its podCIDR 10.244.3.3/24 has host bits set; the network is 10.244.3.0/24");
}

#[tokio::test]
async fn a_burst_of_changes_ends_in_the_last_one() {
    let nodes = Nodes::new(&[1]);
    let mut source = followed(&nodes.path(), &[1]).await;
    for number in 2..=60 {
        if number % 2 == 0 { nodes.replace(&[number]) } else { fs::write(nodes.path(), text(&[number])).unwrap() }
    }
    snapshot(&mut source, &expected(&[60])).await;
}

#[tokio::test]
async fn a_rewrite_of_the_same_list_wakes_nobody() {
    let nodes = Nodes::new(&[1, 2]);
    let mut source = followed(&nodes.path(), &[1, 2]).await;
    nodes.replace(&[2, 1]);
    stays(&mut source.topology, A_WHILE).await;
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let parent = tempfile::tempdir().unwrap();
    let fifo = parent.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [fifo.as_path(), parent.path(), Path::new("/dev/zero")] {
        let mut source = file::follow(path.to_owned(), NEVER);
        let state_now = state(&mut source, failing).await;
        assert!(state_now.last_error.unwrap().message.contains("it is not a regular file"));
    }
}

/// Where no event comes (mmap, a network file system), the regular look finds the change.
#[tokio::test]
async fn a_change_without_an_event_is_found_by_looking() {
    let nodes = Nodes::new(&[1]);
    let mut source = file::follow(nodes.path(), Duration::from_millis(200));
    snapshot(&mut source, &expected(&[1])).await;
    // The writer never closes: no event tells that it is done.
    let mut file = fs::File::options().write(true).truncate(true).open(nodes.path()).unwrap();
    file.write_all(text(&[1, 2]).as_bytes()).unwrap();
    snapshot(&mut source, &expected(&[1, 2])).await;
    drop(file);
}

#[tokio::test]
async fn dropping_the_subscription_ends_the_source() {
    let nodes = Nodes::new(&[1]);
    let source = followed(&nodes.path(), &[1]).await;
    let mut topology = source.topology.clone();
    drop(source);
    topology.mark_unchanged();
    assert!(topology.changed().await.is_err(), "the sender is gone");
}
