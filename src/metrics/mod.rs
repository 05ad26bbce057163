//! Numbers for a Prometheus server: `Page` is what a role fills in when it is asked, `Endpoint` is
//! where it is asked, by HTTP. It knows no role, and a role that nobody asks pays nothing.

mod endpoint;

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

pub use endpoint::{Endpoint, EndpointError, bind};

/// The metrics of one answer. Names follow the conventions of Prometheus: base units, and `_total`
/// for what only grows; each is given once.
#[derive(Default)]
pub struct Page {
    registry: Registry,
}

impl Page {
    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add(name, Gauge::new(name, help).inspect(|gauge| gauge.set(value)));
    }

    /// A sum since the start of the process.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, IntCounter::new(name, help).inspect(|counter| counter.inc_by(value)));
    }

    /// Numbers that go up and down, told apart by a label.
    pub fn gauges<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) {
        let family = GaugeVec::new(Opts::new(name, help), &[label]);
        let set = |family: &GaugeVec| {
            values.into_iter().for_each(|(of, value)| {
                family.with_label_values(&[of.as_ref()]).set(value);
            });
        };
        self.add(name, family.inspect(set));
    }

    /// Sums, told apart by a label.
    pub fn counters<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        let family = IntCounterVec::new(Opts::new(name, help), &[label]);
        let set = |family: &IntCounterVec| {
            values.into_iter().for_each(|(of, value)| {
                family.with_label_values(&[of.as_ref()]).inc_by(value);
            });
        };
        self.add(name, family.inspect(set));
    }

    fn add<M: Collector + 'static>(&mut self, name: &str, metric: prometheus::Result<M>) {
        let added = metric.and_then(|metric| self.registry.register(Box::new(metric)));
        if let Err(error) = added {
            debug_assert!(false, "{name}: {error}");
            log::error!("a metric is left out name={name} error={error}");
        }
    }

    /// The page in the text format of Prometheus.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_the_text_format_of_prometheus() {
        let mut page = Page::default();
        page.gauge("space_bytes", "How much.", 1.5);
        page.counter("synced_total", "How often.", 1 << 53);
        page.counters("requests_total", "Asked.", "name", [("open", 2), ("a\"b", 1)]);
        page.gauges("nodes", "By state.", "state", [("alive", 3.0)]);
        let expected = r#"# HELP nodes By state.
# TYPE nodes gauge
nodes{state="alive"} 3
# HELP requests_total Asked.
# TYPE requests_total counter
requests_total{name="a\"b"} 1
requests_total{name="open"} 2
# HELP space_bytes How much.
# TYPE space_bytes gauge
space_bytes 1.5
# HELP synced_total How often.
# TYPE synced_total counter
synced_total 9007199254740992
"#;
        assert_eq!(page.text(), expected);
    }
}
