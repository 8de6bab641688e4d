//! Accessors for a request.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value},
    metrics::v1::{HistogramDataPoint, Metric, metric::Data, number_data_point},
};

/// A point of a counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) start: u64,
    pub(crate) time: u64,
    pub(crate) value: f64,
    pub(crate) is_monotonic: bool,
}

fn text(attribute: &KeyValue) -> Option<&str> {
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn has(attributes: &[KeyValue], values: &[&str]) -> bool {
    let found: Vec<&str> = attributes.iter().filter_map(text).collect();
    found == values
}

fn metric<'r>(request: &'r ExportMetricsServiceRequest, name: &str) -> Option<&'r Metric> {
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|of| &of.scope_metrics);
    let mut metrics = scopes.flat_map(|scope| &scope.metrics);
    metrics.find(|metric| metric.name == name)
}

/// Returns an attribute of the resource.
pub(crate) fn resource(request: &ExportMetricsServiceRequest, key: &str) -> Option<String> {
    let resource = request.resource_metrics[0].resource.as_ref()?;
    let found = resource.attributes.iter().find(|one| one.key == key)?;
    text(found).map(str::to_owned)
}

/// Returns the unit of an existing metric.
pub(crate) fn unit(request: &ExportMetricsServiceRequest, name: &str) -> Option<String> {
    metric(request, name).map(|metric| metric.unit.clone())
}

/// Returns the points of a counter, by the values of their attributes.
pub(crate) fn numbers(
    request: &ExportMetricsServiceRequest,
    name: &str,
    values: &[&str],
) -> Option<Point> {
    let Data::Sum(sum) = metric(request, name)?.data.as_ref()? else {
        panic!("{name} is no sum");
    };
    let mut points = sum.data_points.iter();
    let point = points.find(|point| has(&point.attributes, values))?;
    Some(Point {
        start: point.start_time_unix_nano,
        time: point.time_unix_nano,
        value: match point.value? {
            number_data_point::Value::AsInt(value) => value as f64,
            number_data_point::Value::AsDouble(value) => value,
        },
        is_monotonic: sum.is_monotonic,
    })
}

/// Returns a histogram, by the values of its attributes.
pub(crate) fn histogram(
    request: &ExportMetricsServiceRequest,
    name: &str,
    values: &[&str],
) -> Option<HistogramDataPoint> {
    let Data::Histogram(histogram) = metric(request, name)?.data.as_ref()? else {
        panic!("{name} is no histogram");
    };
    let mut points = histogram.data_points.iter();
    points.find(|point| has(&point.attributes, values)).cloned()
}
