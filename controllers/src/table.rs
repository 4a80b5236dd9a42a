//! Who watches what and writes what.

/// One controller as declared.
#[derive(Debug, Clone, Copy)]
pub struct ControllerInfo {
    /// Its name, in logs, as field manager and as the source of events.
    pub name: &'static str,
    /// One line: what it is for.
    pub purpose: &'static str,
    /// The kinds it watches.
    pub watches: &'static [&'static str],
    /// The kind and field of everything it writes. `status.conditions[X]` is the condition of type X, `(create)` and `(delete)` whole
    /// objects, `field=Value` that one value of a field that otherwise belongs to the node's agent.
    pub writes: &'static [(&'static str, &'static str)],
}

/// All controllers, by name.
pub static CONTROLLERS: &[ControllerInfo] = &[
    crate::image::assignment::INFO,
    crate::garbage_collector::INFO,
    crate::image::INFO,
    crate::network::addresses::INFO,
    crate::namespace::INFO,
    crate::network::INFO,
    crate::node_lifecycle::INFO,
    crate::scheduler::INFO,
    crate::service_account::INFO,
    crate::volume::INFO,
];

/// The table of [`CONTROLLERS`] in Markdown, as it stands in ARCHITECTURE.md.
pub fn table() -> String {
    let mut text = String::from("| controller | what it is for | watches | writes |\n|---|---|---|---|\n");
    for info in CONTROLLERS {
        let writes: Vec<String> = info.writes.iter().map(|(kind, field)| format!("{kind} `{field}`")).collect();
        let row = [info.name, info.purpose, &info.watches.join(", "), &writes.join(", ")].join(" | ");
        text.push_str(&format!("| {row} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn each_field_has_one_writer() {
        let mut writers = HashMap::new();
        for info in CONTROLLERS {
            for write in info.writes {
                if let Some(other) = writers.insert(write, info.name) {
                    panic!("{write:?} is written by {other} and by {}", info.name);
                }
            }
        }
    }

    #[test]
    fn names_are_in_order_and_unlike() {
        let names: Vec<_> = CONTROLLERS.iter().map(|info| info.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn the_architecture_page_shows_this_table() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
        if let Ok(text) = std::fs::read_to_string(page) {
            assert!(text.contains(&table()), "ARCHITECTURE.md should contain:\n{}", table());
        }
    }
}
