//! Charts: bars against the peers, the share of the limit, and a roofline.

use super::svg::{Anchor, FAINT, INK, OURS, Svg, TORCH, VENDOR};
use super::{Report, Row};

/// All charts of a report, by file name.
pub fn charts(report: &Report) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    let mut ops: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !ops.contains(&row.op.as_str()) {
            ops.push(&row.op);
        }
    }
    for op in ops {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.op == op && has_peer(row)).collect();
        if !rows.is_empty() {
            charts.push((format!("bars-{op}.svg"), bars(report, op, &rows)));
        }
    }
    charts.push(("limits.svg".into(), shares(report)));
    charts.push(("roofline.svg".into(), roofline(report)));
    charts
}

fn has_peer(row: &Row) -> bool {
    row.vendor().is_some() || row.torch().is_some()
}

const NAME_WIDTH: f64 = 260.0;
const BAR_WIDTH: f64 = 480.0;
const BAR: f64 = 11.0;
const TOP: f64 = 54.0;

fn title(report: &Report, text: &str) -> String {
    format!("{text} ({}, {})", report.machine.gpu, report.machine.date)
}

/// TFLOP/s of the rows and of their peers; where the rows of an op do little arithmetic for their bytes, GB/s.
fn bars(report: &Report, op: &str, rows: &[&Row]) -> String {
    // A product of matrices is worth counting in operations from a few on a byte.
    let by_flops = rows.iter().any(|row| row.flops > 16 * row.bytes);
    let (unit, rate): (_, fn(&Row, f64) -> f64) = if by_flops {
        ("TFLOP/s", |row, us| row.flops as f64 / us / 1e6)
    } else {
        ("GB/s", |row, us| row.bytes as f64 / us / 1e3)
    };
    let bars_of = |row: &Row| {
        let ours = Some((OURS, rate(row, row.time.median_us)));
        let vendor = row.vendor().map(|(_, stats)| (VENDOR, rate(row, stats.median_us)));
        let torch = row.torch().map(|(_, stats)| (TORCH, rate(row, stats.median_us)));
        [ours, vendor, torch].into_iter().flatten().collect::<Vec<_>>()
    };
    let all: Vec<_> = rows.iter().map(|row| bars_of(row)).collect();
    let largest = all.iter().flatten().fold(0.0f64, |m, bar| m.max(bar.1));
    let n_bars: usize = all.iter().map(Vec::len).sum();
    let height = TOP + n_bars as f64 * BAR + rows.len() as f64 * 8.0 + 10.0;
    let mut svg = Svg::new(NAME_WIDTH + BAR_WIDTH + 80.0, height);
    svg.text((10.0, 18.0), Anchor::Start, &title(report, &format!("{op}, {unit}")));
    let known = [(OURS, "Oxwarp"), (VENDOR, "cuBLAS, best way"), (TORCH, "PyTorch SDPA, best back end")];
    let has_bars = |colour: &str| all.iter().flatten().any(|(of_bar, _)| *of_bar == colour);
    let drawn: Vec<_> = known.into_iter().filter(|(colour, _)| has_bars(colour)).collect();
    legend(&mut svg, &drawn);
    let mut y = TOP;
    for (row, bars) in rows.iter().zip(&all) {
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        svg.text((NAME_WIDTH - 8.0, middle), Anchor::End, &row.case);
        for (colour, value) in bars {
            let width = value / largest * BAR_WIDTH;
            svg.rect(NAME_WIDTH, y, width, BAR - 1.0, colour);
            svg.text((NAME_WIDTH + width + 4.0, y + BAR - 2.0), Anchor::Start, &format!("{value:.0}"));
            y += BAR;
        }
        y += 8.0;
    }
    svg.finish()
}

fn legend(svg: &mut Svg, entries: &[(&str, &str)]) {
    let mut x = 10.0;
    for (colour, name) in entries {
        svg.rect(x, 28.0, 10.0, 10.0, colour);
        svg.text((x + 14.0, 37.0), Anchor::Start, name);
        x += 30.0 + 6.5 * name.chars().count() as f64;
    }
}

/// The share of the machine's limit that every row reaches.
fn shares(report: &Report) -> String {
    let height = TOP + report.rows.len() as f64 * (BAR + 3.0) + 10.0;
    let mut svg = Svg::new(NAME_WIDTH + BAR_WIDTH + 80.0, height);
    svg.text((10.0, 18.0), Anchor::Start, &title(report, "Per cent of the limit measured in the same run"));
    for percent in [25.0, 50.0, 75.0, 100.0] {
        let x = NAME_WIDTH + percent / 100.0 * BAR_WIDTH;
        svg.line((x, TOP - 6.0), (x, height - 8.0), FAINT);
        svg.text((x, TOP - 10.0), Anchor::Middle, &format!("{percent:.0} %"));
    }
    let mut y = TOP;
    for row in &report.rows {
        svg.text((NAME_WIDTH - 8.0, y + BAR - 2.0), Anchor::End, &format!("{} {}", row.op, row.case));
        // A row that stays in the cache may pass the memory's limit.
        let width = row.limit_percent.min(108.0) / 100.0 * BAR_WIDTH;
        svg.rect(NAME_WIDTH, y, width, BAR - 1.0, OURS);
        svg.text(
            (NAME_WIDTH + width + 4.0, y + BAR - 2.0),
            Anchor::Start,
            &format!("{:.0}", row.limit_percent),
        );
        y += BAR + 3.0;
    }
    svg.finish()
}

/// One colour an op, as long as they last.
const COLOURS: [&str; 10] =
    [OURS, TORCH, "#2b8a3e", "#9c36b5", "#0b7285", "#e67700", "#c2255c", "#5f3dc4", "#66a80f", "#495057"];

/// TFLOP/s over operations a byte, both in powers of ten, under the machine's limits.
fn roofline(report: &Report) -> String {
    const WIDTH: f64 = 820.0;
    const HEIGHT: f64 = 470.0;
    const LEFT: f64 = 60.0;
    const BOTTOM: f64 = 40.0;
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.flops > 0).collect();
    let intensity = |row: &Row| row.flops as f64 / row.bytes as f64;
    // Whole powers of ten around everything.
    let span = |values: &mut dyn Iterator<Item = f64>, or: (f64, f64)| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high { or } else { (low.log10().floor(), (high * 1.01).log10().ceil()) }
    };
    let (x_low, x_high) = span(&mut rows.iter().map(|row| intensity(row)), (0.0, 3.0));
    let roof = report.limits.matmul_tflop_s;
    let (y_low, y_high) = span(&mut rows.iter().map(|row| row.tflop_s).chain(roof), (-2.0, 3.0));
    let place = |x: f64, y: f64| {
        (
            LEFT + (x.log10() - x_low) / (x_high - x_low) * (WIDTH - LEFT - 190.0),
            HEIGHT - BOTTOM - (y.log10() - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - 50.0),
        )
    };
    let (left, right) = (10f64.powf(x_low), 10f64.powf(x_high));
    let (low, high) = (10f64.powf(y_low), 10f64.powf(y_high));
    let mut svg = Svg::new(WIDTH, HEIGHT);
    svg.text((10.0, 18.0), Anchor::Start, &title(report, "Roofline"));
    for power in x_low as i32..=x_high as i32 {
        let x = 10f64.powi(power);
        svg.line(place(x, low), place(x, high), FAINT);
        let (at, bottom) = place(x, low);
        svg.text((at, bottom + 14.0), Anchor::Middle, &format!("{x}"));
    }
    for power in y_low as i32..=y_high as i32 {
        let y = 10f64.powi(power);
        svg.line(place(left, y), place(right, y), FAINT);
        let (start, at) = place(left, y);
        svg.text((start - 6.0, at + 4.0), Anchor::End, &format!("{y}"));
    }
    svg.text((LEFT + 200.0, HEIGHT - 8.0), Anchor::Middle, "FLOP a byte");
    svg.text((10.0, 38.0), Anchor::Start, "TFLOP/s");

    // The memory's slope, from the left edge or the bottom to the roof or the top.
    let slope = report.limits.read_gb_s / 1e3;
    let top = roof.unwrap_or(high);
    let start = left.max(low / slope);
    let knee = (top / slope).min(right);
    svg.line(place(start, slope * start), place(knee, slope * knee), INK);
    if let Some(roof) = roof {
        svg.line(place(knee, roof), place(right, roof), INK);
    }

    let mut ops: Vec<&str> = Vec::new();
    for row in rows {
        let number = ops.iter().position(|op| *op == row.op).unwrap_or_else(|| {
            ops.push(&row.op);
            ops.len() - 1
        });
        let label = format!("{} {}: {:.1} TFLOP/s, {:.0} GB/s", row.op, row.case, row.tflop_s, row.gb_s);
        svg.dot(place(intensity(row), row.tflop_s), COLOURS[number % COLOURS.len()], &label);
    }
    for (number, op) in ops.iter().enumerate() {
        let y = 60.0 + 16.0 * number as f64;
        svg.dot((WIDTH - 170.0, y), COLOURS[number % COLOURS.len()], op);
        svg.text((WIDTH - 160.0, y + 4.0), Anchor::Start, op);
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::super::svg::tests::assert_well_formed;
    use super::super::tests::report;
    use super::*;

    #[test]
    fn every_chart_is_well_formed_and_has_its_marks() {
        let report = report();
        let charts = charts(&report);
        let names: Vec<_> = charts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bars-gemm_wgmma.svg", "bars-attention_wgmma.svg", "limits.svg", "roofline.svg"]);
        for (name, svg) in &charts {
            assert!(assert_well_formed(svg) > 10, "{name}");
        }
        // Ours, one vendor's, one of torch; with three in the legend, and the background.
        assert_eq!(charts[1].1.matches("<rect").count(), 3 + 3 + 1);
        // A dot a row and one an op.
        assert_eq!(charts[3].1.matches("<circle").count(), 3 + 3);
    }

    #[test]
    fn the_longest_bar_fills_its_place() {
        let svg = &charts(&report())[0].1;
        assert!(svg.contains("width=\"480.0\""), "{svg}");
        // 1500 of 1600 µs.
        assert!(svg.contains("width=\"450.0\""), "{svg}");
    }

    #[test]
    fn a_report_without_rows_or_roof_still_draws() {
        let mut report = report();
        report.rows.clear();
        report.limits.matmul_tflop_s = None;
        for (_, svg) in charts(&report) {
            assert_well_formed(&svg);
        }
    }

    #[test]
    fn dots_lie_inside_the_frame() {
        let svg = &charts(&report())[3].1;
        for circle in svg.split("<circle ").skip(1) {
            let number = |name: &str| -> f64 {
                let value = circle.split(&format!("{name}=\"")).nth(1).and_then(|s| s.split('"').next());
                value.expect("an attribute").parse().expect("a number")
            };
            assert!(
                (60.0..=820.0).contains(&number("cx")) && (40.0..=430.0).contains(&number("cy")),
                "{circle}"
            );
        }
    }
}
