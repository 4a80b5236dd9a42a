//! The table, as `nft` reads it.

use super::place::nft;
use super::*;

#[test]
fn the_table_reads_as_it_is_meant() {
    on_host(|| async {
        let driver = driver();
        driver.ensure_network(&network(1)).await.unwrap();
        let internal = NetworkWish { internal: true, ..network(2) };
        driver.ensure_network(&internal).await.unwrap();
        let listed = nft("list ruleset");
        println!("{listed}");
    });
}
