//! Which step waits for which. Names are resolved here and nowhere else.

use std::collections::BTreeSet;

use asynctask_api::definition::StepSpec;

/// The steps of a definition as a graph, by their indexes. Names that belong to no step are left out.
#[derive(Debug)]
pub(super) struct Graph {
    /// Steps that must have ended well.
    needs: Vec<Vec<usize>>,
    /// The step that `when` names.
    when: Vec<Option<usize>>,
    /// Whether it may make up for the failure of the step that `when` names.
    recovers: Vec<bool>,
}

impl Graph {
    pub(super) fn of(steps: &[StepSpec]) -> Self {
        let named = |index: usize| {
            let when = steps[index].when.as_ref()?;
            find(steps, &when.step).filter(|other| *other != index)
        };
        let when: Vec<Option<usize>> = (0..steps.len()).map(named).collect();
        let needs = (0..steps.len()).map(|index| needs(steps, index, when[index])).collect();
        let recovers = steps.iter().map(|step| step.recovers == Some(true)).collect();
        Self { needs, when, recovers }
    }

    /// What the step must wait for, without duplicates and in the order of the steps.
    pub(super) fn needs(&self, step: usize) -> &[usize] {
        &self.needs[step]
    }

    /// The step that `when` of this one names.
    pub(super) fn when(&self, step: usize) -> Option<usize> {
        self.when[step]
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
        let on = self.when[step];
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = self.needs[step].iter().copied().filter(|need| Some(*need) != on).collect();
        while let Some(need) = open.pop() {
            if found.insert(need) {
                open.extend(
                    (0..self.when.len()).filter(|other| self.recovers[*other] && self.when[*other] == Some(need)),
                );
                open.extend(self.when[need].filter(|named| Some(*named) != on));
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

fn needs(steps: &[StepSpec], index: usize, when: Option<usize>) -> Vec<usize> {
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
