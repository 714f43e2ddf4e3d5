//! The shape of a plan: a graph of steps, drawn as a tree.
//!
//! Straight down means "after the one above". Steps that go on side by side are branches; where they meet again the tree
//! is back at the level it left, and the step says after whom. What occurs on a condition only is a branch of the step it
//! answers to; if these are several, it stands where they meet.

use asynctask_api::definition::WhenSpec;
use asynctask_api::task::PlannedStep;

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index in the plan.
    pub(crate) step: usize,
    /// What stands before the step on its own line.
    pub(crate) lead: String,
    /// What stands before further lines about it.
    pub(crate) under: String,
    /// Names of the steps it waits for, where its place does not tell.
    pub(crate) after: Vec<String>,
}

/// The places of all steps, from top to bottom. Each step has one, whatever the plan.
pub(crate) fn places(plan: &[PlannedStep]) -> Vec<Place> {
    let tree = Tree::of(plan);
    let mut places = Vec::new();
    tree.draw(None, "", &mut places);
    places
}

struct Tree<'a> {
    plan: &'a [PlannedStep],
    /// The steps each one waits for.
    needs: Vec<Vec<usize>>,
    /// The step each one stands below; `None`: at the top.
    parents: Vec<Option<usize>>,
}

impl<'a> Tree<'a> {
    fn of(plan: &'a [PlannedStep]) -> Self {
        let needs: Vec<_> = plan.iter().map(|step| needs(plan, step)).collect();
        // The way from the top to each step. Where several ways lead to a step, it stands where they part.
        let mut ways: Vec<Option<Vec<usize>>> = vec![None; plan.len()];
        loop {
            let open = |n: &usize| ways[*n].is_none() && needs[*n].iter().all(|need| ways[*need].is_some());
            let Some(step) = (0..plan.len()).find(open) else { break };
            let on = plan[step].when.as_ref().and_then(|when| index(plan, when.step.as_ref()?));
            let mut way = match on {
                Some(on) => ways[on].clone().unwrap_or_default(),
                None => needs[step].iter().filter_map(|need| ways[*need].clone()).reduce(common).unwrap_or_default(),
            };
            way.push(step);
            ways[step] = Some(way);
        }
        let parent = |way: &Option<Vec<usize>>| way.as_ref().and_then(|way| way.iter().nth_back(1).copied());
        let parents = ways.iter().map(parent).collect();
        Self { plan, needs, parents }
    }

    /// Everything below a step.
    fn draw(&self, parent: Option<usize>, gutter: &str, places: &mut Vec<Place>) {
        let branches = self.branches(parent);
        for (n, &step) in branches.iter().enumerate() {
            let (lead, rail) = if n + 1 < branches.len() { ("├─ ", "│  ") } else { ("└─ ", "   ") };
            let inner = format!("{gutter}{rail}");
            places.push(self.place(step, format!("{gutter}{lead}"), &inner));
            self.draw(Some(step), &inner, places);
        }
        for step in self.children(parent).filter(|step| !branches.contains(step)) {
            places.push(self.place(step, gutter.to_owned(), gutter));
            self.draw(Some(step), gutter, places);
        }
    }

    fn place(&self, step: usize, lead: String, inner: &str) -> Place {
        let rail = if self.branches(Some(step)).is_empty() { "   " } else { "│  " };
        Place { step, lead, under: format!("{inner}{rail}"), after: self.after(step) }
    }

    fn children(&self, parent: Option<usize>) -> impl Iterator<Item = usize> {
        (0..self.plan.len()).filter(move |step| self.parents[*step] == parent)
    }

    /// The children that stand beside each other, not below.
    fn branches(&self, parent: Option<usize>) -> Vec<usize> {
        let follows = |step: &usize| self.plan[*step].when.is_none() && self.after(*step).is_empty();
        let alone = self.children(parent).filter(follows).count() == 1;
        let answers = |step: &usize| self.plan[*step].when.as_ref().is_some_and(|when| when.step.is_some());
        let beside = |step: &usize| answers(step) || follows(step) && !alone;
        self.children(parent).filter(beside).collect()
    }

    /// Whom a step waits for, unless that is just the one it stands below or answers to.
    fn after(&self, step: usize) -> Vec<String> {
        let told = |need: &&usize| match &self.plan[step].when {
            Some(when) => when.is_of_any() || when.named().any(|name| name == self.plan[**need].name),
            None => self.needs[step].len() == 1 && self.parents[step] == Some(**need),
        };
        self.needs[step].iter().filter(|need| !told(need)).map(|need| self.plan[*need].name.clone()).collect()
    }
}

fn needs(plan: &[PlannedStep], step: &PlannedStep) -> Vec<usize> {
    let on = || step.when.iter().flat_map(WhenSpec::named);
    let names = step.depends_on.iter().map(String::as_str).chain(on());
    let mut needs: Vec<usize> = names.filter_map(|name| index(plan, name)).collect();
    needs.sort_unstable();
    needs.dedup();
    // Whoever waits for a step waits for the operator's own work behind it, which says both.
    let own: Vec<&PlannedStep> = needs.iter().map(|need| &plan[*need]).filter(|need| need.built_in.is_some()).collect();
    let told = |need: &usize| own.iter().any(|own| own.depends_on.contains(&plan[*need].name));
    let answers = |need: &usize| on().any(|name| name == plan[*need].name);
    needs.iter().copied().filter(|need| !told(need) || answers(need)).collect()
}

fn index(plan: &[PlannedStep], name: &str) -> Option<usize> {
    plan.iter().position(|step| step.name == name)
}

/// As far as two ways are one.
fn common(one: Vec<usize>, other: Vec<usize>) -> Vec<usize> {
    one.into_iter().zip(other).take_while(|(a, b)| a == b).map(|(step, _)| step).collect()
}

#[cfg(test)]
mod tests {
    use super::places;
    use asynctask_api::definition::{Outcome, WhenSpec};
    use asynctask_api::task::{BuiltInKind, PlannedStep};

    fn step(name: &str, needs: &[&str]) -> PlannedStep {
        PlannedStep {
            name: name.into(),
            title: String::new(),
            stages: Vec::new(),
            depends_on: needs.iter().map(|need| (*need).to_owned()).collect(),
            when: None,
            recovers: false,
            fan_out: None,
            built_in: None,
        }
    }

    fn answer(name: &str, needs: &[&str], to: &str) -> PlannedStep {
        let when = WhenSpec {
            step: Some(to.into()),
            steps: Vec::new(),
            outcome: vec![Outcome::Failed],
            exit_codes: Vec::new(),
        };
        PlannedStep { when: Some(when), ..step(name, needs) }
    }

    fn drawn(plan: &[PlannedStep]) -> Vec<String> {
        let line = |place: &super::Place| {
            let after =
                if place.after.is_empty() { String::new() } else { format!(" after {}", place.after.join(", ")) };
            format!("{}{}{after}", place.lead, plan[place.step].name)
        };
        places(plan).iter().map(line).collect()
    }

    #[test]
    fn a_chain_goes_straight_down() {
        assert_eq!(drawn(&[step("a", &[]), step("b", &["a"]), step("c", &["b"])]), ["a", "b", "c"]);
    }

    #[test]
    fn a_diamond_opens_and_closes() {
        let plan = [step("a", &[]), step("b", &["a"]), step("c", &["a"]), step("d", &["b", "c"]), step("e", &["d"])];
        assert_eq!(drawn(&plan), ["a", "├─ b", "└─ c", "d after b, c", "e"]);
    }

    #[test]
    fn branches_of_different_lengths_meet_where_they_left() {
        let plan = [step("a", &[]), step("b", &["a"]), step("e", &["b"]), step("c", &["a"]), step("d", &["e", "c"])];
        assert_eq!(drawn(&plan), ["a", "├─ b", "│  e", "└─ c", "d after e, c"]);
    }

    #[test]
    fn an_answer_is_a_branch_and_the_chain_goes_on_below() {
        let plan = [
            step("a", &[]),
            answer("b", &["a"], "a"),
            step("c", &["a"]),
            answer("d", &["c", "b"], "c"),
            step("e", &["c"]),
        ];
        assert_eq!(drawn(&plan), ["a", "└─ b", "c", "└─ d after b", "e"]);
    }

    #[test]
    fn steps_that_wait_for_nothing_stand_beside_each_other() {
        assert_eq!(drawn(&[step("a", &[]), step("b", &[]), step("c", &["a", "b"])]), ["├─ a", "└─ b", "c after a, b"]);
    }

    #[test]
    fn the_operators_own_steps_stand_between_the_authors() {
        let own = |name: &str, needs: &[&str], kind| PlannedStep { built_in: Some(kind), ..step(name, needs) };
        let plan = [
            step("check", &[]),
            own("split-send", &["check"], BuiltInKind::Split),
            step("send", &["check", "split-send"]),
            own("assemble-send", &["send"], BuiltInKind::Assemble),
            step("sum", &["send", "assemble-send"]),
            answer("sorry", &["send"], "send"),
        ];
        let lines = ["check", "split-send", "send", "└─ sorry", "assemble-send", "sum"];
        assert_eq!(drawn(&plan), lines);
    }

    #[test]
    fn no_step_is_lost_whatever_the_plan_says() {
        let plan =
            [step("a", &["b"]), step("b", &["a"]), step("c", &["gone"]), step("d", &["d"]), answer("e", &[], "?")];
        assert_eq!(drawn(&plan), ["└─ e", "a after b", "b after a", "c", "d after d"]);
    }

    #[test]
    fn a_line_below_a_step_leads_on_to_its_branches() {
        let plan = [step("a", &[]), step("b", &["a"]), answer("c", &["b"], "b"), step("d", &["a"])];
        let under: Vec<_> = places(&plan).into_iter().map(|place| place.under).collect();
        assert_eq!(under, ["│  ", "│  │  ", "│        ", "      "]);
    }
}
