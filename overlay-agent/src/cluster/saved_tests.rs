use super::*;
use crate::cluster::list;
use std::os::unix::fs::PermissionsExt as _;

const NODES: &str = include_str!("../../testdata/nodes.yaml");

fn time() -> Timestamp {
    Timestamp::from_second(1_767_600_000).unwrap()
}

#[test]
fn what_is_stored_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state").join(FILE);
    assert!(load(&path, "a").unwrap().is_none());
    let mut candidates = list::parse(NODES).unwrap();
    let broken = Candidate { name: "x".to_owned(), uid: None, created: None, node: Err("no".to_owned()) };
    store(&path, &text("a", time(), candidates.iter().chain([&broken]))).unwrap();
    store(&path, &text("a", time(), candidates.iter().chain([&broken]))).unwrap();
    assert_eq!(load(&path, "a").unwrap().unwrap(), (time(), std::mem::take(&mut candidates)));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [FILE], "nothing is left beside it");
    assert!(remove(path.parent().unwrap()).unwrap());
    assert!(!remove(path.parent().unwrap()).unwrap() && load(&path, "a").unwrap().is_none());
}

#[test]
fn what_cannot_be_trusted_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let whole = text("a", time(), &list::parse(NODES).unwrap());
    let refused = |bytes: &[u8], node: &str| {
        fs::write(&path, bytes).unwrap();
        load(&path, node).unwrap_err().to_string().replace(&path.display().to_string(), "it")
    };
    for length in 0..whole.len() {
        assert!(refused(&whole[..length], "a").starts_with("it cannot be read: "));
    }
    assert_eq!(refused(&whole, "b"), "it is of node \"a\"");
    assert_eq!(refused(br#"{"layout":0,"cluster":[]}"#, "a"), "it has layout 0, not 1");
    assert!(refused(b"\0\0\0\0", "a").starts_with("it cannot be read: "));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(load(&path, "a").unwrap_err().to_string().ends_with("it is no file"));
}
