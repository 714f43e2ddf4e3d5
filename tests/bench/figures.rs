//! What was measured: the table that people read, and the numbers that the next run is compared with.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How much worse than the baseline is not noise any more.
const MORE: f64 = 1.2;

/// What a figure must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

impl Budget {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", short(limit)),
            Self::AtLeast(limit) => format!("≥ {}", short(limit)),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Names it in the baseline, with its size: other sizes are other figures.
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) unit: String,
    /// One number a round.
    pub(crate) ours: Vec<f64>,
    /// The same without us; empty where there is no such thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) raw: Vec<f64>,
    /// Of the ratio where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Budget>,
    /// Depends on no machine's speed, so that it can be compared without a ratio.
    #[serde(default)]
    pub(crate) steady: bool,
}

impl Row {
    pub(crate) fn new(id: impl Into<String>, what: impl Into<String>, unit: &str, ours: Vec<f64>) -> Self {
        let (id, what, unit) = (id.into(), what.into(), unit.to_owned());
        Self { id, what, unit, ours, raw: Vec::new(), budget: None, steady: false }
    }

    pub(crate) fn beside(self, raw: Vec<f64>) -> Self {
        Self { raw, ..self }
    }

    pub(crate) fn at_most(self, limit: f64) -> Self {
        Self { budget: Some(Budget::AtMost(limit)), ..self }
    }

    pub(crate) fn at_least(self, limit: f64) -> Self {
        Self { budget: Some(Budget::AtLeast(limit)), ..self }
    }

    pub(crate) fn steady(self) -> Self {
        Self { steady: true, ..self }
    }

    fn ratio(&self) -> Option<f64> {
        (!self.raw.is_empty()).then(|| median(&self.ours) / median(&self.raw))
    }

    /// What the budget is about.
    fn judged(&self) -> f64 {
        self.ratio().unwrap_or_else(|| median(&self.ours))
    }

    /// What the next run is compared with.
    fn compared(&self) -> Option<f64> {
        self.ratio().or_else(|| self.steady.then(|| median(&self.ours)))
    }
}

/// The middle one; of two the mean.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The value below which that part of all is.
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// All rows of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Where it was measured.
    #[serde(default)]
    machine: String,
    rows: Vec<Row>,
}

impl Figures {
    pub(crate) fn add(&mut self, row: Row) {
        println!("{}", line(&row));
        self.rows.push(row);
    }

    pub(crate) fn read(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())))
    }

    pub(crate) fn save(&mut self, file: &Path) {
        self.machine = machine();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, serde_json::to_string_pretty(self).unwrap() + "\n").unwrap();
    }

    /// For the book.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("Measured on {}.\n\n", self.machine);
        table.push_str("| what | ours | raw | ratio | budget | |\n|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let _ = writeln!(table, "{}", line(row));
        }
        table
    }
}

fn line(row: &Row) -> String {
    let all = |values: &[f64]| match values {
        [] => "–".to_owned(),
        [one] => format!("{} {}", short(*one), row.unit),
        many => {
            let each: Vec<String> = many.iter().map(|value| short(*value)).collect();
            format!("**{}** {} ({})", short(median(many)), row.unit, each.join(", "))
        }
    };
    let ratio = row.ratio().map_or_else(|| "–".to_owned(), short);
    let (budget, holds) = match row.budget {
        Some(budget) => (budget.words(), if budget.holds(row.judged()) { "kept" } else { "**not kept**" }),
        None => ("–".to_owned(), ""),
    };
    format!("| {} | {} | {} | {ratio} | {budget} | {holds} |", row.what, all(&row.ours), all(&row.raw))
}

/// A number in as many digits as it means something.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores ({}), Kubernetes 1.37.2 as processes, nodes played by kwok", model.unwrap_or("unknown"))
}

/// What is worse than before, in words.
pub(crate) fn regressions(now: &Figures, before: &Figures) -> Vec<String> {
    let worse = |row: &Row| {
        let old = before.rows.iter().find(|old| old.id == row.id)?;
        let (new, old) = (row.compared()?, old.compared()?);
        let worse = match row.budget {
            Some(Budget::AtLeast(_)) => new * MORE < old,
            Some(Budget::AtMost(_)) | None => new > old * MORE,
        };
        worse.then(|| format!("{} ({}): {} instead of {}", row.what, row.id, short(new), short(old)))
    };
    now.rows.iter().filter_map(worse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rows: impl IntoIterator<Item = Row>) -> Figures {
        Figures { machine: "a machine".into(), rows: rows.into_iter().collect() }
    }

    fn wall(ours: f64, raw: f64) -> Row {
        Row::new("burst-500", "500 tasks", "s", vec![ours]).beside(vec![raw]).at_most(1.25)
    }

    #[test]
    fn a_ratio_that_grows_by_more_than_a_fifth_is_told_with_its_row() {
        let before = figures([wall(10.0, 10.0)]);
        assert_eq!(regressions(&figures([wall(11.9, 10.0)]), &before), Vec::<String>::new());
        assert_eq!(regressions(&figures([wall(24.0, 20.0)]), &before), Vec::<String>::new(), "a slow machine");
        assert_eq!(regressions(&figures([wall(12.2, 10.0)]), &before), ["500 tasks (burst-500): 1.22 instead of 1"]);
    }

    #[test]
    fn without_a_ratio_only_what_no_machine_makes_faster_is_compared() {
        let row = |value: f64| Row::new("a", "bytes", "B", vec![value]);
        let (before, now) = (figures([row(1.0)]), figures([row(9.0)]));
        assert_eq!(regressions(&now, &before), Vec::<String>::new());
        let (before, now) = (figures([row(1.0).steady()]), figures([row(9.0).steady()]));
        assert_eq!(regressions(&now, &before).len(), 1);
        let rate = |value: f64| figures([row(value).steady().at_least(5.0)]);
        assert_eq!(regressions(&rate(9.0), &rate(1.0)), Vec::<String>::new(), "more is better");
        assert_eq!(regressions(&rate(1.0), &rate(9.0)).len(), 1);
    }

    #[test]
    fn another_size_is_another_figure() {
        let small = Row { id: "burst-5".into(), ..wall(90.0, 10.0) };
        assert_eq!(regressions(&figures([small]), &figures([wall(10.0, 10.0)])), Vec::<String>::new());
    }

    #[test]
    fn the_table_says_what_was_kept() {
        let table = figures([wall(12.0, 10.0), wall(13.0, 10.0)]).table();
        assert!(table.contains("| 500 tasks | 12 s | 10 s | 1.20 | ≤ 1.25 | kept |"), "{table}");
        assert!(table.contains("| 1.30 | ≤ 1.25 | **not kept** |"), "{table}");
        let rounds = Row::new("x", "x", "s", vec![3.0, 1.0, 2.0]);
        assert!(line(&rounds).contains("**2** s (3, 1, 2)"), "{}", line(&rounds));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (100.0, 198.0));
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!((median(&[1.0, 3.0]), median(&[5.0, 1.0, 3.0])), (2.0, 3.0));
    }
}
