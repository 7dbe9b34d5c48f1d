use super::*;
use crate::report::tests::{report, table};
use crate::report::{Better, Goal, Ran, Table};

/// A report with every kind of thing that a page shows.
fn everything() -> Report {
    let mut flat = table(&[
        ("tcx redirect", &[50.0, 51.0]),
        ("netagent", &[100.0, 110.0]),
        ("nft masquerade", &[200.0, 210.0]),
        ("passt", &[]),
    ]);
    flat.id = "datapath/64-bytes".to_owned();
    flat.note("peers < 3 & \"quoted\" <script>alert('x')</script>");
    let mut sizes =
        Table::new("scale/create", "create <latency>", ("ms", Better::Lower)).over("instances");
    for (at, factor) in [(0.0, 1.0), (100.0, 1.5), (10_000.0, 90.0)] {
        sizes.add_at("netagent", Some(at), &[2.0, 2.5].into_iter().collect());
        sizes.add_at(
            "iptables-nft",
            Some(at),
            &[2.0 * factor, 3.0 * factor].into_iter().collect(),
        );
    }
    let mut below = table(&[("memory & more", &[-1.5, 2.0])]);
    below.id = "storm/memory".to_owned();
    let mut report = report(vec![flat, sizes, below]);
    for (what, target) in [("a goal <= that", 1.0), ("another", 3.0)] {
        report.goals.push(Goal {
            what: what.to_owned(),
            value: 2.0,
            target,
            better: Better::Lower,
        });
    }
    report.benchmarks.push(Ran {
        name: "datapath".to_owned(),
        about: "frames & flows".to_owned(),
        seconds: 60.0,
    });
    report.failures.push("scale: it <stopped>".to_owned());
    report.machine.load_before = 2.0;
    report
}

/// Names of elements that are open, from the outside in; panics where one is closed that is not open.
fn check_nesting(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let (_, body) = page.split_once("</style>").unwrap();
    open.extend(["html", "head"]);
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        let name = tag.split_whitespace().next().unwrap_or_default();
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "<{tag}> closes what is open");
        } else if !tag.ends_with('/') && !name.starts_with('!') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "still open: {open:?}");
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let page = render(&everything()).unwrap();
    check_nesting(&page);
    for other in ["<script", "<link", "<img", "@import", "url(", "src="] {
        assert!(!page.contains(other), "{other}");
    }
}

#[test]
fn every_comparison_goal_and_failure_is_there_and_escaped() {
    let report = everything();
    let page = render(&report).unwrap();
    for table in &report.tables {
        assert!(
            page.contains(&format!("<article id=\"{}\">", table.id)),
            "{}",
            table.id
        );
    }
    for text in [
        "Create &lt;latency&gt;",
        "peers &lt; 3 &amp; &quot;quoted&quot; &lt;script&gt;alert(&#39;x&#39;)",
        "a goal &lt;= that",
        "1 of 2",
        "scale: it &lt;stopped&gt;",
        "frames &amp; flows",
        "memory &amp; more",
        "not measured",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn every_chart_is_drawn_for_both_widths() {
    let report = everything();
    let page = render(&report).unwrap();
    for class in ["wide", "narrow"] {
        let head = format!("<svg class=\"{class}\" role=\"img\"");
        assert_eq!(page.matches(&head).count(), report.tables.len());
    }
}

#[test]
fn an_empty_report_is_a_page_too() {
    check_nesting(&render(&report(Vec::new())).unwrap());
    check_nesting(&render(&report(vec![table(&[("netagent", &[])])])).unwrap());
}
