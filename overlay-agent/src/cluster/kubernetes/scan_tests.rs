use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Scans `text` in pieces of `piece` bytes.
fn scan(text: &[u8], piece: usize) -> (Vec<Vec<u8>>, Result<Envelope, ScanError>) {
    let mut items = Vec::new();
    let mut scan = Scan::new();
    for bytes in text.chunks(piece.max(1)) {
        if let Err(error) = scan.push(bytes, &mut |item| items.push(item.to_vec())) {
            return (items, Err(error));
        }
    }
    (items, scan.finish())
}

fn values(items: &[Vec<u8>]) -> Vec<Value> {
    items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect()
}

#[test]
fn items_come_out_as_they_are_whatever_the_pieces() {
    let items =
        vec![json!({ "a": [1, { "items": [2] }] }), json!({ "text": "]}\\\"[{," }), json!([1, 2]), json!("x,]"), json!(7), json!(null)];
    let list =
        json!({ "kind": "NodeList", "metadata": { "resourceVersion": "12", "continue": "more", "x": [1] }, "items": items, "z": [[]] });
    for text in [list.to_string(), format!("{list:#}")] {
        for piece in 1..text.len() {
            let (found, envelope) = scan(text.as_bytes(), piece);
            assert_eq!(values(&found), items);
            assert_eq!(envelope.unwrap(), Envelope { version: Some("12".to_owned()), next: Some("more".to_owned()) });
        }
    }
}

#[test]
fn a_list_without_items_is_empty() {
    for text in
        [r#"{"kind":"NodeList","metadata":{},"items":[]}"#, r#"{"kind":"NodeList","items":null}"#, r#"{"kind":"NodeList","items":[ ] } "#]
    {
        assert_eq!(scan(text.as_bytes(), 3), (Vec::new(), Ok(Envelope::default())), "{text}");
    }
}

#[test]
fn a_text_cut_off_anywhere_is_no_list() {
    let text = json!({ "kind": "NodeList", "metadata": { "resourceVersion": "1" }, "items": [{ "a": 1 }, { "b": "}" }] }).to_string();
    for length in 0..text.len() {
        let (_, envelope) = scan(&text.as_bytes()[..length], 7);
        assert_eq!(envelope, Err(ScanError::CutOff(length as u64)));
    }
}

#[test]
fn what_is_no_list_of_nodes_is_refused() {
    let refused = |text: &str| scan(text.as_bytes(), 5).1.unwrap_err();
    assert_eq!(refused(r#"{"kind":"Status","code":500}"#), ScanError::Kind("Status".to_owned()));
    assert!(matches!(refused("]"), ScanError::NotJson(_)));
    assert!(matches!(refused(r#"{"kind":"NodeList","items":[}"#), ScanError::CutOff(_)));
    assert!(matches!(refused(r#"{"kind" "NodeList","items":[]}"#), ScanError::NotJson(_)));
    assert!(matches!(refused(&format!(r#"{{"kind":"NodeList","items":["{}"]}}"#, "x".repeat(LARGEST_ITEM))), ScanError::TooLarge(_)));
}

#[test]
fn an_item_that_is_no_json_costs_only_itself() {
    let (items, envelope) = scan(br#"{"kind":"NodeList","items":[{"a":1},{"b":},{"c":3}]}"#, 4);
    assert_eq!(items, [br#"{"a":1}"#.to_vec(), br#"{"b":}"#.to_vec(), br#"{"c":3}"#.to_vec()]);
    assert!(envelope.is_ok());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(text in prop::collection::vec(prop::sample::select(br#"{}[]",:\ items"kNodeList"1"#.to_vec()), 0..80), piece in 1..9_usize) {
        drop(scan(&text, piece));
    }
}
