use super::*;

type Labels = &'static [(&'static str, &'static str)];

fn index(labels: &[(&str, &str)]) -> Index {
    Index { labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), ..Index::default() }
}

#[test]
fn labels_match_as_kubernetes_does() {
    let cases: &[(&str, Labels, bool)] = &[
        ("", &[], true),
        ("  ", &[("a", "b")], true),
        ("a=b", &[("a", "b")], true),
        ("a==b", &[("a", "b")], true),
        ("a = b", &[("a", "c")], false),
        ("a=b", &[], false),
        ("a=", &[("a", "")], true),
        ("a=,b=c", &[("a", ""), ("b", "c")], true),
        ("a!=b", &[("a", "c")], true),
        ("a!=b", &[], true),
        ("a!=b", &[("a", "b")], false),
        ("a in (b,c)", &[("a", "c")], true),
        ("a in (b, c)", &[("a", "d")], false),
        ("a in (b,c)", &[], false),
        ("a in (,b)", &[("a", "")], true),
        ("a in (b,)", &[("a", "")], true),
        ("a notin (b,c)", &[("a", "d")], true),
        ("a notin (b,c)", &[], true),
        ("a notin (b,c)", &[("a", "b")], false),
        ("a", &[("a", "")], true),
        ("a", &[], false),
        ("!a", &[], true),
        ("! a", &[("a", "x")], false),
        ("a>1", &[("a", "2")], true),
        ("a>1", &[("a", "x")], false),
        ("a<1", &[("a", "0")], true),
        ("a<1", &[], false),
        ("in in (notin)", &[("in", "notin")], true),
        ("in", &[("in", "")], true),
        ("app.example.org/name=web,tier in (front),!old", &[("app.example.org/name", "web"), ("tier", "front")], true),
    ];
    for (selector, labels, wanted) in cases {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&index(labels)), *wanted, "{selector} on {labels:?}");
    }
}

#[test]
fn bad_label_selectors_are_refused() {
    let bad = [
        ",",
        "a,",
        "a,,b",
        ",a",
        "=b",
        "a=b=c",
        "a b",
        "a in",
        "a in b",
        "a in (",
        "a in (b",
        "a in ()",
        "a in (b c)",
        "a in (b=c)",
        "!",
        "!a=b",
        "a!b",
        "a=b)",
        "(a)",
        "a===b",
        "a>b",
        "a>",
        "-a",
        "a/b/c",
        "A.B/c",
        "a=-b",
        "a in (b_)",
        "a=ü",
    ];
    for selector in bad {
        assert!(LabelSelector::parse(selector).is_err(), "{selector}");
    }
    assert!(LabelSelector::parse(&"a".repeat(64)).is_err());
    assert_eq!(LabelSelector::parse("a in b").unwrap_err().to_string(), "unable to parse requirement: found 'b', expected: '('");
}

#[test]
fn fields_match_as_kubernetes_does() {
    let key = Key::new("/pods", "shop", "web");
    let index = Index { fields: vec![("status.phase".into(), "Running".into()), ("x".into(), "a,b=c\\".into())], ..Index::default() };
    let cases = [
        ("", true),
        ("metadata.name=web", true),
        ("metadata.name==web,metadata.namespace=shop", true),
        ("metadata.name!=web", false),
        ("status.phase!=Running", false),
        ("status.phase=Running,", true),
        ("spec.absent=", true),
        ("spec.absent!=", false),
        ("spec.absent!=a", true),
        (r"x=a\,b\=c\\", true),
        ("status.phase= Running", false),
    ];
    for (selector, wanted) in cases {
        assert_eq!(FieldSelector::parse(selector).unwrap().matches(&key, &index), wanted, "{selector}");
    }
}

#[test]
fn bad_field_selectors_are_refused() {
    for selector in ["a", "a,b=c", "a=b=c", r"a=\b", r"a=b\", "a===b"] {
        assert!(FieldSelector::parse(selector).is_err(), "{selector}");
    }
}

#[test]
fn a_selection_is_all_of_its_parts() {
    let selection = Selection {
        namespace: Some("shop".into()),
        labels: LabelSelector::parse("a=b").unwrap(),
        fields: FieldSelector::parse("metadata.name=web").unwrap(),
    };
    let labelled = index(&[("a", "b")]);
    assert!(selection.selects(&Key::new("/pods", "shop", "web"), &labelled));
    assert!(!selection.selects(&Key::new("/pods", "shop", "db"), &labelled));
    assert!(!selection.selects(&Key::new("/pods", "other", "web"), &labelled));
    assert!(!selection.selects(&Key::new("/pods", "shop", "web"), &Index::default()));
    assert!(!selection.is_by_namespace_only());
    assert!(Selection::namespace("shop").is_by_namespace_only());
}
