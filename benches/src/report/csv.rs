//! Results as comma-separated values.

use super::Report;

/// One line a case, behind a line of names.
pub fn csv(report: &Report) -> String {
    let mut text = String::from(
        "op,case,us,us_q1,us_q3,samples,bytes,flops,tflop_s,gb_s,limit_percent,error,error_allowed,in_cache,vendor,vendor_us,\
         torch,torch_us\n",
    );
    for row in &report.rows {
        let peer = |found: Option<(&super::PeerRow, crate::stats::Stats)>| {
            found.map_or(",".into(), |(peer, stats)| format!("{},{}", field(&peer.name), stats.median_us))
        };
        let time = &row.time;
        text.push_str(&format!(
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
            field(&row.op),
            field(&row.case),
            time.median_us,
            time.quartile_1_us,
            time.quartile_3_us,
            time.n_samples,
            row.bytes,
            row.flops,
            row.tflop_s,
            row.gb_s,
            row.limit_percent,
            row.error.map_or("nan".into(), |error| error.to_string()),
            row.error_allowed,
            row.in_cache,
            peer(row.vendor()),
            peer(row.torch()),
        ));
    }
    text
}

/// A field, in quotes where it must be.
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn every_line_has_every_column() {
        let text = csv(&report());
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [18; 4]);
        assert!(text.contains("gemm_wgmma,bf16 8192x8192x8192,1500,"), "{text}");
    }

    #[test]
    fn commas_and_quotes_are_quoted() {
        assert_eq!(field("a, \"b\""), "\"a, \"\"b\"\"\"");
    }
}
