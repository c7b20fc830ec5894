//! Date and time for `strftime_now`.

/// A moment on the calendar, without a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

const DAY_SECONDS: i64 = 24 * 60 * 60;

impl DateTime {
    /// The moment `seconds` after the beginning of 1970, both in UTC.
    pub fn from_unix(seconds: i64) -> DateTime {
        let (days, second) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
        // Years that begin in March, in eras of 400 years: then leap days come last, and all eras are equal.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month_from_1) =
            (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
        DateTime {
            year: era * 400 + year + i64::from(month_from_1 <= 2),
            month: month_from_1 as u8,
            day: day as u8,
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
        }
    }

    /// Days since the beginning of the year, from 0.
    fn day_of_year(&self) -> i64 {
        let is_leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let february = 28 + i64::from(is_leap);
        let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let before: i64 = lengths.iter().take(usize::from(self.month.max(1)) - 1).sum();
        before + i64::from(self.day) - 1
    }

    /// 0 is Monday.
    fn weekday(&self) -> usize {
        let years = self.year - 1;
        // The first of January of year 1 was a Monday.
        let days = years * 365 + years.div_euclid(4) - years.div_euclid(100)
            + years.div_euclid(400)
            + self.day_of_year();
        days.rem_euclid(7) as usize
    }

    /// The directives of C's `strftime`, in English; an unknown one is left as it is.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            // `%-d`: without leading zeros.
            let bare = rest.as_str().starts_with('-');
            if bare {
                rest.next();
            }
            let Some(directive) = rest.next() else {
                out.push('%');
                break;
            };
            match self.directive(directive) {
                Some(text) if bare => {
                    let trimmed = text.trim_start_matches(['0', ' ']);
                    out.push_str(if trimmed.is_empty() { "0" } else { trimmed });
                }
                Some(text) => out.push_str(&text),
                None => out.extend(['%', directive]),
            }
        }
        out
    }

    fn directive(&self, directive: char) -> Option<String> {
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let hour_of_12 = (self.hour + 11) % 12 + 1;
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'm' => format!("{:02}", self.month),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year() + 1),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour_of_12:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => self.format("%Y-%m-%d"),
            'T' => self.format("%H:%M:%S"),
            'D' => self.format("%m/%d/%y"),
            'R' => self.format("%H:%M"),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_unix_time() {
        let at = |seconds| DateTime::from_unix(seconds).format("%F %T %a %j");
        assert_eq!(at(0), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(at(-1), "1969-12-31 23:59:59 Wed 365");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59 Mon 059");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 Tue 060");
        assert_eq!(at(1_751_068_800), "2025-06-28 00:00:00 Sat 179");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59 Sun 059");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 Mon 060");
    }

    #[test]
    fn directives() {
        let date = DateTime { year: 2025, month: 7, day: 6, hour: 0, minute: 5, second: 9 };
        assert_eq!(date.format("%d %b %Y"), "06 Jul 2025");
        assert_eq!(date.format("%A, %B %-d, %y"), "Sunday, July 6, 25");
        assert_eq!(date.format("%I:%M %p %H:%R %e|%D"), "12:05 AM 00:00:05  6|07/06/25");
        assert_eq!(date.format("100%% %Q %"), "100% %Q %");
        assert_eq!(date.format("%-H %-M"), "0 5");
    }
}
