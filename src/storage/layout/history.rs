//! Keys of history records.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::{InvalidPart, Layout, Prefix, RECORD, checked};

/// What the key of a history record says, beside the folder it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryKey {
    /// When the run was created, in whole seconds.
    pub created: Timestamp,
    /// UID of the run.
    pub uid: String,
}

impl Layout {
    /// Where [`crate::records::HistoryRecord`] of a run is, filed under the month (UTC) the run was created in.
    ///
    /// # Errors
    /// A name or UID that cannot be part of a key.
    pub fn history(
        &self,
        namespace: &str,
        created: Timestamp,
        name: &str,
        task_uid: &str,
    ) -> Result<String, InvalidPart> {
        let zoned = created.to_zoned(TimeZone::UTC);
        let folder = self.history_of(namespace, zoned.year(), zoned.month(), name)?;
        let seconds = end_of_month(zoned.date()).map_or(0, |end| end.as_second() - created.as_second());
        Ok(format!("{folder}{seconds:07}-{}{RECORD}", checked("task UID", task_uid)?))
    }

    /// To list the records of all runs that had this name and were created in this month (UTC), the newest first;
    /// [`Self::parse_history`] reads the keys found.
    ///
    /// # Errors
    /// A name that cannot be part of a key.
    pub fn history_of(&self, namespace: &str, year: i16, month: i8, name: &str) -> Result<Prefix, InvalidPart> {
        let (namespace, name) = (checked("namespace", namespace)?, checked("task name", name)?);
        Ok(Prefix(format!("{}{namespace}/_history/{year:04}/{month:02}/{name}/", self.root)))
    }

    /// To list the records of all runs of a namespace that were created in this month (UTC).
    ///
    /// # Errors
    /// A name that cannot be part of a key.
    pub fn history_in(&self, namespace: &str, year: i16, month: i8) -> Result<Prefix, InvalidPart> {
        let namespace = checked("namespace", namespace)?;
        Ok(Prefix(format!("{}{namespace}/_history/{year:04}/{month:02}/", self.root)))
    }

    /// Reads a key found below [`Self::history_of`]. `None`: no history record's key.
    #[must_use]
    pub fn parse_history(&self, key: &str) -> Option<HistoryKey> {
        let rest = key.strip_prefix(self.root.as_str())?;
        let [namespace, "_history", year, month, name, file] = rest.split('/').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (seconds, uid) = file.strip_suffix(RECORD)?.split_once('-')?;
        let end = end_of_month(Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?)?;
        let created = Timestamp::from_second(end.as_second().checked_sub(seconds.parse().ok()?)?).ok()?;
        // Only the spelling we write: another one would be a second name of the same run.
        let ours = self.history(namespace, created, name, uid).is_ok_and(|ours| ours == key);
        ours.then(|| HistoryKey { created, uid: uid.to_owned() })
    }
}

/// The first moment (UTC) after the month of this day; `None`: time ends before.
fn end_of_month(day: Date) -> Option<Timestamp> {
    let next = day.first_of_month().checked_add(1.month()).ok()?;
    Some(next.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_history_record_is_filed_under_the_month_its_run_was_created_in() {
        let layout = Layout::new("prod/tasks").expect("valid");
        let created: Timestamp = "2027-01-01T00:30:00+01:00".parse().expect("a time");
        let key = layout.history("studio", created, "export.v1", "t-1").expect("valid");
        assert_eq!(key, "prod/tasks/studio/_history/2026/12/export.v1/0001800-t-1.json");
        let folder = layout.history_of("studio", 2026, 12, "export.v1").expect("valid");
        assert!(key.starts_with(folder.as_str()));
        let found = layout.parse_history(&key).expect("ours");
        assert_eq!((found.created, found.uid.as_str()), (created, "t-1"));
        let later =
            layout.history("studio", created + SignedDuration::from_secs(1), "export.v1", "t-0").expect("valid");
        assert!(later < key, "the newest comes first");
    }

    #[test]
    fn keys_that_are_no_history_record_are_not_parsed() {
        let layout = Layout::new("p").expect("valid");
        for key in [
            "p/ns/_history/2026/12/run/0000001-t-1",
            "p/ns/_history/2026/12/run/.json",
            "p/ns/_history/2026/12/run/t-1.json",
            "p/ns/_history/2026/12/run/0000001-.json",
            "p/ns/_history/2026/12/run/1-t-1.json",
            "p/ns/_history/2026/12/run/+000001-t-1.json",
            "p/ns/_history/2026/12/run/9999999-t-1.json",
            "p/ns/_history/2026/12/run/x/0000001-t-1.json",
            "p/ns/_history/2026/13/run/0000001-t-1.json",
            "p/ns/_history/2026/1/run/0000001-t-1.json",
            "p/ns/_history/+026/01/run/0000001-t-1.json",
            "p/ns/_uploads/2026/12/run/0000001-t-1.json",
            "p/_ns/_history/2026/12/run/0000001-t-1.json",
            "q/ns/_history/2026/12/run/0000001-t-1.json",
        ] {
            assert_eq!(layout.parse_history(key), None, "{key}");
        }
    }
}
