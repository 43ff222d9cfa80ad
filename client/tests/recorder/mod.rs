//! A recorder of metrics that can be asked what it saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// What was seen of one metric with one set of labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// The sum of a counter, or how a gauge stands.
    pub(crate) value: f64,
    /// What went into a histogram.
    pub(crate) samples: Vec<f64>,
}

type All = Arc<Mutex<BTreeMap<String, Seen>>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded(All);

impl Recorded {
    /// What was seen of `name{label="value",…}`.
    pub(crate) fn of(&self, series: &str) -> Seen {
        self.0.lock().unwrap().get(series).cloned().unwrap_or_default()
    }

    /// The names of all series.
    pub(crate) fn series(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn one(&self, key: &Key) -> Arc<One> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={:?}", label.key(), label.value())).collect();
        let series =
            if labels.is_empty() { key.name().to_owned() } else { format!("{}{{{}}}", key.name(), labels.join(",")) };
        self.0.lock().unwrap().entry(series.clone()).or_default();
        Arc::new(One { all: self.0.clone(), series })
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.one(key))
    }
}

struct One {
    all: All,
    series: String,
}

impl One {
    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(self.all.lock().unwrap().entry(self.series.clone()).or_default());
    }
}

impl CounterFn for One {
    #[expect(clippy::cast_precision_loss, reason = "tests count to ten")]
    fn increment(&self, value: u64) {
        self.change(|seen| seen.value += value as f64);
    }

    fn absolute(&self, _: u64) {
        panic!("nothing is counted so");
    }
}

impl GaugeFn for One {
    fn increment(&self, value: f64) {
        self.change(|seen| seen.value += value);
    }

    fn decrement(&self, value: f64) {
        self.change(|seen| seen.value -= value);
    }

    fn set(&self, _: f64) {
        panic!("nothing is set so");
    }
}

impl HistogramFn for One {
    fn record(&self, value: f64) {
        self.change(|seen| seen.samples.push(value));
    }
}
