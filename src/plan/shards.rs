//! Sets of shards, spelt as intervals: `0-2,7`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A set of shard numbers. Costs memory by its intervals, not by its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(Vec<RangeInclusive<u32>>);

/// Begins a map of bits.
const BITS: &str = "bits:";

/// A text that spells no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of intervals such as 0-2,7 in ascending order")]
pub struct InvalidShards(String);

impl ShardSet {
    /// All of `0..count`.
    #[must_use]
    pub fn all(count: u32) -> Self {
        count.checked_sub(1).map_or_else(Self::default, |last| Self(vec![0..=last]))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|range| range.end() - range.start() + 1).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a shard is in it.
    #[must_use]
    pub fn contains(&self, shard: u32) -> bool {
        let behind = self.0.partition_point(|range| *range.end() < shard);
        self.0.get(behind).is_some_and(|range| range.contains(&shard))
    }

    /// The shard at a place, counted from 0: what a Job's index stands for.
    #[must_use]
    pub fn nth(&self, index: u32) -> Option<u32> {
        let mut left = index;
        for range in &self.0 {
            let size = range.end() - range.start() + 1;
            if left < size {
                return Some(range.start() + left);
            }
            left -= size;
        }
        None
    }

    /// Every shard, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().cloned().flatten()
    }

    /// Adds one that is greater than all in it.
    pub fn push(&mut self, shard: u32) {
        match self.0.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(shard) => *last = *last.start()..=shard,
            Some(last) if *last.end() >= shard => unreachable!("invariant: shards are added in ascending order"),
            _ => self.0.push(shard..=shard),
        }
    }

    /// All that are in one or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<_> = self.0.iter().chain(&other.0).cloned().collect();
        ranges.sort_by_key(|range| *range.start());
        let mut all: Vec<RangeInclusive<u32>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match all.last_mut() {
                Some(last) if range.start().saturating_sub(1) <= *last.end() => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => all.push(range),
            }
        }
        Self(all)
    }

    /// What the places of another set stand for in this one: `self` as a Job's shards, `indexes` as its indexes.
    #[must_use]
    pub fn pick(&self, indexes: &Self) -> Self {
        let mut ranges = self.0.iter();
        // The range that is looked at, and how many places come before it: both only go on.
        let (mut range, mut before) = (ranges.next(), 0);
        let place = |index: u32| loop {
            let here = range?;
            let size = here.end() - here.start() + 1;
            if index - before < size {
                return Some(here.start() + index - before);
            }
            before += size;
            range = ranges.next();
        };
        indexes.iter().map_while(place).collect()
    }

    /// For an annotation: intervals, or a map of bits where that is shorter. Of 100,000 shards at most 25 KB.
    #[must_use]
    pub fn pack(&self) -> String {
        let Some(last) = self.0.last() else { return String::new() };
        let mut bits = vec![0u8; usize::try_from(last.end() / 8).expect("a number of shards fits") + 1];
        for shard in self.iter() {
            bits[usize::try_from(shard / 8).expect("a number of shards fits")] |= 1 << (shard % 8);
        }
        let (text, bits) = (self.to_string(), format!("{BITS}{}", hex::encode(bits)));
        if text.len() <= bits.len() { text } else { bits }
    }

    /// Reads what [`Self::pack`] wrote.
    ///
    /// # Errors
    /// A text of another kind.
    pub fn unpack(text: &str) -> Result<Self, InvalidShards> {
        let Some(bits) = text.strip_prefix(BITS) else { return text.parse() };
        let bits = hex::decode(bits).map_err(|_| InvalidShards(text.chars().take(80).collect()))?;
        let shards = (0u32..)
            .zip(bits)
            .flat_map(|(place, byte)| (0..8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| place * 8 + bit));
        Ok(shards.collect())
    }

    /// The text, cut to at most `max` bytes at an interval's end; `…` stands for the rest.
    #[must_use]
    pub fn cut(&self, max: usize) -> String {
        const REST: &str = "…";
        let text = self.to_string();
        if text.len() <= max {
            return text;
        }
        let end = text[..=max.saturating_sub(REST.len())].rfind(',').unwrap_or(0);
        format!("{}{REST}", &text[..end])
    }
}

impl FromIterator<u32> for ShardSet {
    /// Of ascending numbers.
    fn from_iter<T: IntoIterator<Item = u32>>(shards: T) -> Self {
        let mut set = Self::default();
        shards.into_iter().for_each(|shard| set.push(shard));
        set
    }
}

impl fmt::Display for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{comma}{start}")?,
                (start, end) => write!(f, "{comma}{start}-{end}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for ShardSet {
    type Err = InvalidShards;

    /// As Kubernetes spells the indexes of a Job, and we our own.
    fn from_str(text: &str) -> Result<Self, InvalidShards> {
        let invalid = || InvalidShards(text.chars().take(80).collect());
        // Whoever may edit Jobs may write anything here; no Job has so many.
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < 1 << 30).ok_or_else(invalid);
        let mut set = Self::default();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (start, end) = part.split_once('-').unwrap_or((part, part));
            let (start, end) = (number(start)?, number(end)?);
            let after = set.0.last().is_none_or(|last| *last.end() < start);
            if !after || start > end {
                return Err(invalid());
            }
            match set.0.last_mut() {
                Some(last) if last.end() + 1 == start => *last = *last.start()..=end,
                _ => set.0.push(start..=end),
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_that_no_job_has_are_refused_and_add_up_to_no_overflow() {
        for text in ["0-4294967295", "4294967295", "1073741824", "0-1,4294967295-4294967295"] {
            assert!(text.parse::<ShardSet>().is_err(), "{text}");
        }
        assert_eq!("0-1073741823".parse::<ShardSet>().expect("a list").len(), 1 << 30);
    }

    #[test]
    fn intervals_are_spelt_as_kubernetes_spells_them() {
        let set: ShardSet = [0, 1, 2, 7, 9, 10].into_iter().collect();
        assert_eq!(set.to_string(), "0-2,7,9-10");
        assert_eq!((set.len(), set.nth(3), set.nth(6)), (6, Some(7), None));
        assert_eq!("0-2,3,7".parse::<ShardSet>().expect("intervals").to_string(), "0-3,7");
        for text in ["a", "3-1", "5,4", "1,,2", "1-", "-1", "1,1"] {
            assert!(text.parse::<ShardSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_long_list_is_cut_at_an_intervals_end() {
        let odd: ShardSet = (0..1000).filter(|shard| shard % 2 == 1).collect();
        let cut = odd.cut(20);
        assert_eq!(cut, "1,3,5,7,9,11,13…");
        assert!(cut.len() <= 20 && odd.cut(5000) == odd.to_string());
    }

    #[test]
    fn the_worst_set_of_100_000_shards_fits_into_an_annotation() {
        let odd: ShardSet = (0..100_000).filter(|shard| shard % 2 == 1).collect();
        let packed = odd.pack();
        assert!(packed.len() < 26_000, "{}", packed.len());
        assert_eq!(ShardSet::unpack(&packed), Ok(odd));
        assert_eq!(ShardSet::all(100_000).pack(), "0-99999");
    }

    #[test]
    fn the_indexes_of_a_job_stand_for_its_shards() {
        let (run, failed): (ShardSet, ShardSet) = ([3, 7, 8].into_iter().collect(), [0, 2].into_iter().collect());
        assert_eq!(run.pick(&failed).to_string(), "3,8");
        assert_eq!(ShardSet::all(5).pick(&failed).to_string(), "0,2");
    }

    proptest! {
        #[test]
        fn a_set_of_intervals_is_a_set(shards in proptest::collection::btree_set(0..200u32, 0..80)) {
            let set: ShardSet = shards.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), shards.clone());
            prop_assert_eq!(set.len() as usize, shards.len());
            prop_assert!((0..200).all(|shard| set.contains(shard) == shards.contains(&shard)));
            prop_assert!((0..set.len()).all(|index| set.nth(index) == shards.iter().copied().nth(index as usize)));
            let indexes: ShardSet = (0..90).filter(|index| index % 3 != 1).collect();
            prop_assert_eq!(set.pick(&indexes), indexes.iter().filter_map(|index| set.nth(index)).collect());
            let odd: ShardSet = (0..200).filter(|shard| shard % 2 == 1).collect();
            let both: ShardSet = (0..200).filter(|shard| shard % 2 == 1 || shards.contains(shard)).collect();
            prop_assert_eq!(set.union(&odd), both);
            prop_assert_eq!(ShardSet::unpack(&set.pack()), Ok(set.clone()));
            prop_assert_eq!(set.to_string().parse::<ShardSet>(), Ok(set));
        }
    }
}
