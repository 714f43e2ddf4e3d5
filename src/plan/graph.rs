//! Which step waits for which. Names are resolved here and nowhere else.

use std::collections::BTreeSet;

use asynctask_api::definition::{StepSpec, WhenSpec};

/// The steps of a definition as a graph, by their indexes. Names that belong to no step are left out.
#[derive(Debug)]
pub(super) struct Graph {
    /// Steps that must have ended well.
    needs: Vec<Vec<usize>>,
    /// The steps that `when` answers to.
    when: Vec<Vec<usize>>,
    /// Whether it may make up for the failure of the steps that `when` names.
    recovers: Vec<bool>,
    /// Whether it answers to any step, for `when` names none.
    any: Vec<bool>,
}

impl Graph {
    pub(super) fn of(steps: &[StepSpec]) -> Self {
        let named = |index: usize| -> Vec<usize> {
            let names = steps[index].when.iter().flat_map(WhenSpec::named);
            names.filter_map(|name| find(steps, name)).filter(|other| *other != index).collect()
        };
        let when: Vec<Vec<usize>> = (0..steps.len()).map(named).collect();
        let needs = (0..steps.len()).map(|index| needs(steps, index, &when[index])).collect();
        let any: Vec<bool> = steps.iter().map(|step| step.when.as_ref().is_some_and(WhenSpec::is_of_any)).collect();
        let recovers = steps.iter().zip(&any).map(|(step, any)| step.recovers == Some(true) && !any).collect();
        let mut graph = Self { needs, when, recovers, any };
        graph.answer_to_any();
        graph
    }

    /// Whoever answers to any step waits for all but those of its kind and what comes after one of them.
    fn answer_to_any(&mut self) {
        let all = 0..self.needs.len();
        let of_kind: Vec<usize> = all.clone().filter(|step| self.any[*step]).collect();
        let late = |step: &usize| of_kind.iter().any(|other| other == step || self.precedes(*other, *step));
        let others: Vec<usize> = all.filter(|step| !late(step)).collect();
        for step in of_kind {
            let needs: BTreeSet<usize> = self.needs[step].iter().chain(&others).copied().collect();
            self.needs[step] = needs.into_iter().collect();
            self.when[step].clone_from(&others);
        }
    }

    /// What the step must wait for, without duplicates and in the order of the steps.
    pub(super) fn needs(&self, step: usize) -> &[usize] {
        &self.needs[step]
    }

    /// The steps that `when` of this one answers to.
    pub(super) fn when(&self, step: usize) -> &[usize] {
        &self.when[step]
    }

    /// Whether `earlier` has always ended before `later` starts.
    pub(super) fn precedes(&self, earlier: usize, later: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = self.needs[later].clone();
        while let Some(step) = open.pop() {
            if seen.insert(step) {
                open.extend(&self.needs[step]);
            }
        }
        seen.contains(&earlier)
    }

    /// Steps that depend on each other in a circle; the first is named again at the end.
    pub(super) fn circle(&self) -> Option<Vec<usize>> {
        circle(&self.needs)
    }

    /// The same over everything a step waits for: also for those that may still make up for a failure.
    pub(super) fn wider_circle(&self) -> Option<Vec<usize>> {
        let waits: Vec<Vec<usize>> = (0..self.needs.len()).map(|step| self.waits(step)).collect();
        circle(&waits)
    }

    /// All steps whose fate `flow::turn` asks for before it lets this one start.
    fn waits(&self, step: usize) -> Vec<usize> {
        // What became of a named step is taken as it is; of any step also whether it was made up for.
        let on: &[usize] = if self.any[step] { &[] } else { &self.when[step] };
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = self.needs[step].iter().copied().filter(|need| !on.contains(need)).collect();
        while let Some(need) = open.pop() {
            if found.insert(need) {
                let answers = |other: &usize| self.recovers[*other] && self.when[*other].contains(&need);
                open.extend((0..self.when.len()).filter(answers));
                open.extend(self.when[need].iter().filter(|named| !on.contains(named)));
            }
        }
        found.extend(on);
        found.into_iter().collect()
    }
}

/// Index of the step of this name.
pub(super) fn find(steps: &[StepSpec], name: &str) -> Option<usize> {
    steps.iter().position(|step| step.name == name)
}

fn needs(steps: &[StepSpec], index: usize, when: &[usize]) -> Vec<usize> {
    let step = &steps[index];
    let mut needs: BTreeSet<usize> = match (&step.depends_on, &step.when) {
        (Some(names), _) => names.iter().filter_map(|name| find(steps, name)).collect(),
        (None, Some(_)) => BTreeSet::new(),
        (None, None) => index.checked_sub(1).into_iter().collect(),
    };
    needs.extend(when);
    needs.remove(&index);
    needs.into_iter().collect()
}

fn circle(waits: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut open: BTreeSet<usize> = (0..waits.len()).collect();
    while let Some(free) = open.iter().copied().find(|step| waits[*step].iter().all(|other| !open.contains(other))) {
        open.remove(&free);
    }
    // Each step that is left waits for one that is left: whoever walks on comes back to where it was.
    let mut walk = vec![*open.first()?];
    loop {
        let next = waits[*walk.last()?].iter().copied().find(|other| open.contains(other))?;
        if let Some(start) = walk.iter().position(|step| *step == next) {
            walk.drain(..start);
            walk.push(next);
            return Some(walk);
        }
        walk.push(next);
    }
}
