//! What the whole run comes to: the head of the page, where netagent stands, the goals, the machine.

use crate::outputs::date;
use crate::report::number::{self, tidy, times};
use crate::report::page::{escaped, twin};
use crate::report::standing::{OWN, Standing, Verdict, standings};
use crate::report::{Better, Goal, Report, Table};

/// Title, and the run in a few numbers.
pub(super) fn head(report: &Report) -> String {
    let all: Vec<Verdict> = all_standings(report)
        .iter()
        .map(|(_, standing)| standing.verdict)
        .collect();
    let count = |wanted: Verdict| all.iter().filter(|verdict| **verdict == wanted).count();
    let met = report.goals.iter().filter(|goal| goal.is_met()).count();
    let (year, month, day) = date(report.machine.started / 86_400);
    let kind = if report.quick {
        "quick run"
    } else {
        "full run"
    };
    let tile = |class: &str, number: String, what: &str| {
        format!("<li class=\"{class}\"><b>{number}</b> {what}</li>\n")
    };
    let tiles = [
        tile(
            "ahead",
            count(Verdict::Ahead).to_string(),
            "comparisons in which netagent is ahead of its best peer",
        ),
        tile(
            "even",
            count(Verdict::Even).to_string(),
            "in which neither is, beyond noise",
        ),
        tile(
            "behind",
            count(Verdict::Behind).to_string(),
            "in which the peer is ahead",
        ),
        tile(
            "goals",
            format!("{met} of {}", report.goals.len()),
            "goals met",
        ),
    ];
    format!(
        "<header>\n<h1>netagent beside what people use today</h1>\n<p class=\"about\">{year}-{month:02}-{day:02}, {kind}, {}. All ways of a comparison were measured in turn, in one run on one machine.</p>\n<ul class=\"tiles\">\n{}</ul>\n{}</header>\n",
        escaped(&processor(report)),
        tiles.concat(),
        warnings(report)
    )
}

fn processor(report: &Report) -> String {
    let machine = &report.machine;
    let model = if machine.processor.is_empty() {
        "processors"
    } else {
        &machine.processor
    };
    format!("{} x {model}", machine.processors)
}

/// What a reader should not overlook.
fn warnings(report: &Report) -> String {
    let mut warnings = Vec::new();
    if !report.machine.was_idle() {
        warnings.push(format!(
            "The machine was not idle when the run began (load {}): trust the ratios, not the figures.",
            tidy(report.machine.load_before)
        ));
    }
    if report.quick {
        warnings.push("A quick run has few and short rounds: a first impression.".to_owned());
    }
    let failures = report.failures.iter();
    warnings.extend(failures.map(|failure| format!("A benchmark stopped: {failure}")));
    let paragraph = |text: &String| format!("<p class=\"warning\">{}</p>\n", escaped(text));
    warnings.iter().map(paragraph).collect()
}

/// Those that the summary shows: each comparison once, at its smallest and at its largest size.
fn all_standings(report: &Report) -> Vec<(&Table, Standing<'_>)> {
    let tables = report.tables.iter();
    let tables = tables.filter(|table| twin(report, table).is_none());
    let of = |table| {
        let mut all = standings(table);
        if all.len() > 2 {
            all.drain(1..all.len() - 1);
        }
        all.into_iter().map(move |standing| (table, standing))
    };
    tables.flat_map(of).collect()
}

/// The table of where netagent stands.
pub(super) fn standing(report: &Report) -> String {
    let all = all_standings(report);
    if all.is_empty() {
        return String::new();
    }
    let rows: String = all
        .iter()
        .map(|(table, standing)| row(table, standing))
        .collect();
    format!(
        "<section>\n<h2>Where netagent stands</h2>\n<p class=\"about\">Beside the best of those that do the same work. The bar says how many times as good netagent is; left of the middle the peer is better. Ways that do less and are faster are named.</p>\n<div class=\"scroll\">\n<table class=\"standing\">\n<thead><tr><th></th><th>netagent</th><th>best peer</th><th>how many times as good</th><th>ahead</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n</section>\n"
    )
}

fn row(table: &Table, standing: &Standing<'_>) -> String {
    let [own, peer] = [standing.own, standing.peer].map(|cell| tidy(cell.figures().median()));
    let advantage = match table.better {
        Better::Lower => standing.ratio,
        Better::Higher => standing.ratio.recip(),
    };
    let (class, ahead) = match standing.verdict {
        Verdict::Ahead => ("ahead", OWN),
        Verdict::Even => ("even", "even"),
        Verdict::Behind => ("behind", standing.peer.way.as_str()),
    };
    let size = standing.at.map_or_else(String::new, |at| {
        let axis = table.axis.as_deref().unwrap_or_default();
        format!(" <small>at {} {}</small>", number::size(at), escaped(axis))
    });
    let less = standing.ahead_with_less.iter().map(|cell| {
        let ratio = cell.figures().median() / standing.own.figures().median();
        format!(
            " <small>{} does less: {}</small>",
            escaped(&cell.way),
            times(ratio)
        )
    });
    let less: String = less.collect();
    format!(
        "<tr class=\"{class}\"><th><a href=\"#{}\">{}</a>{size}</th><td data-name=\"netagent\">{own} <small>{}</small></td><td data-name=\"best peer\">{peer} <small>{}</small></td><td>{}<span class=\"factor\">{}</span></td><td data-name=\"ahead\">{}{less}</td></tr>\n",
        escaped(&table.id),
        escaped(&table.title),
        escaped(&table.unit),
        escaped(&standing.peer.way),
        gauge(advantage),
        times(advantage),
        escaped(ahead),
    )
}

/// A bar from the middle: to the right where netagent is better, four times at its end.
fn gauge(advantage: f64) -> String {
    const HALF: f64 = 60.0;
    let share = (advantage.log2() / 2.0).clamp(-1.0, 1.0);
    let share = if share.is_finite() { share } else { 0.0 };
    let length = (share.abs() * HALF).max(1.0);
    let from = if share < 0.0 { HALF - length } else { HALF };
    format!(
        "<svg class=\"gauge\" viewBox=\"0 0 120 12\" aria-hidden=\"true\"><rect class=\"value\" x=\"{from:.1}\" y=\"1\" width=\"{length:.1}\" height=\"10\"></rect><line x1=\"60\" y1=\"0\" x2=\"60\" y2=\"12\"></line></svg>"
    )
}

/// What was to be reached: what was missed first.
pub(super) fn goals(report: &Report) -> String {
    if report.goals.is_empty() {
        return String::new();
    }
    let (met, missed): (Vec<&Goal>, Vec<&Goal>) =
        report.goals.iter().partition(|goal| goal.is_met());
    let row = |goal: &&Goal| {
        let (class, verdict) = if goal.is_met() {
            ("ahead", "met")
        } else {
            ("behind", "missed")
        };
        format!(
            "<tr class=\"{class}\"><th>{}</th><td>{}</td><td class=\"goal\">{}</td><td>{verdict}</td></tr>\n",
            escaped(&goal.what),
            tidy(goal.value),
            escaped(&goal.wanted())
        )
    };
    let rows: String = missed.iter().chain(&met).map(row).collect();
    let is_open = if missed.is_empty() { "" } else { " open" };
    format!(
        "<section>\n<h2>Goals</h2>\n<details{is_open}>\n<summary>{} met, {} missed</summary>\n<div class=\"scroll\">\n<table>\n<thead><tr><th></th><th>reached</th><th>goal</th><th></th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n</details>\n</section>\n",
        met.len(),
        missed.len()
    )
}

/// Where and when, and how to read it.
pub(super) fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let minutes = report.benchmarks.iter().map(|ran| ran.seconds).sum::<f64>() / 60.0;
    let facts = [
        ("Kernel", machine.kernel.clone()),
        ("Processors", processor(report)),
        (
            "Load of the last minute",
            format!(
                "{} before the run, {} after it",
                machine.load_before, machine.load_after
            ),
        ),
        ("Time", format!("{minutes:.1} minutes")),
    ];
    let fact =
        |(name, value): &(&str, String)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(value));
    let facts: String = facts.iter().map(fact).collect();
    format!(
        "<footer>\n<h2>The machine, and how to read this</h2>\n<dl>\n{facts}</dl>\n\
         <p>A bar ends at the median of all rounds; the thin line goes from the lowest round to the highest, and each dot is a round. \
         Somebody is ahead where the medians differ by more than 5 % and the rounds by more than chance (Mann and Whitney, 1 %); with fewer than five rounds, where their ranges do not touch.</p>\n\
         <p>A bare tcx redirect and an XDP redirect are limits: they carry frames and do nothing else. Route, bridge and mirred do not translate addresses. \
         Figures are those of one machine without a network card: frames go from a TAP to one end of a veth pair, or back. Ratios carry over to other machines better than figures do.</p>\n</footer>\n"
    )
}
