//! Samples and how they are shown.

use std::path::Path;

use serde_json::json;

/// One row: something measured on one peer.
struct Row {
    what: String,
    peer: String,
    unit: &'static str,
    samples: Vec<f64>,
}

/// All rows of a run.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds one sample to the row of `what` and `peer`.
    pub(crate) fn add(&mut self, what: &str, peer: &str, unit: &'static str, sample: f64) {
        match self.0.iter_mut().find(|row| row.what == what && row.peer == peer) {
            Some(row) => row.samples.push(sample),
            None => self.0.push(Row { what: what.to_owned(), peer: peer.to_owned(), unit, samples: vec![sample] }),
        }
    }

    /// The median of a measure, of its first peer; 0 without samples.
    pub(crate) fn median(&self, what: &str) -> f64 {
        self.0.iter().find(|row| row.what == what).map_or(0.0, |row| quantile(&row.sorted(), 0.5))
    }

    /// Prints minimum, median, 95th percentile and count of every row, peers of one measure together.
    pub(crate) fn print(&self) {
        println!("{:<52} {:<10} {:>10} {:>10} {:>10} {:>4} unit", "what", "who", "min", "median", "p95", "n");
        let mut seen: Vec<&str> = Vec::new();
        for what in self.0.iter().map(|row| row.what.as_str()) {
            if seen.contains(&what) {
                continue;
            }
            seen.push(what);
            for row in self.0.iter().filter(|row| row.what == what) {
                let sorted = row.sorted();
                println!(
                    "{:<52} {:<10} {:>10.2} {:>10.2} {:>10.2} {:>4} {}",
                    row.what,
                    row.peer,
                    sorted.first().copied().unwrap_or(0.0),
                    quantile(&sorted, 0.5),
                    quantile(&sorted, 0.95),
                    sorted.len(),
                    row.unit
                );
            }
        }
    }

    /// Writes all samples as JSON.
    pub(crate) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir)?;
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|row| json!({"what": row.what, "peer": row.peer, "unit": row.unit, "median": quantile(&row.sorted(), 0.5), "samples": row.samples}))
            .collect();
        let file = dir.join("bench.json");
        std::fs::write(&file, serde_json::to_vec_pretty(&rows)?)?;
        println!("all samples: {}", file.display());
        Ok(())
    }
}

impl Row {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// Nearest-rank quantile of sorted samples.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}
