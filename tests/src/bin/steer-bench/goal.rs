//! Goals: ratios of figures of one run.

use serde::Serialize;

use crate::report::Measured;

/// Upper bound of a case's cost.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    case: &'static str,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    /// A sum of multiples of other cases, at each number of flows.
    Each(&'static [(f64, &'static str)]),
    /// A multiple of the case itself with the fewest flows, at the most flows.
    Growth(f64),
}

/// Result for a goal.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) goal: String,
    pub(crate) flows: u32,
    /// Measured cost, in units of the goal's base.
    pub(crate) ratio: f64,
    pub(crate) limit: f64,
    pub(crate) met: bool,
}

impl Goal {
    /// Creates a goal relative to a sum of multiples of other cases, at each number of flows.
    pub(crate) const fn each(case: &'static str, terms: &'static [(f64, &'static str)]) -> Self {
        Self {
            case,
            limit: Limit::Each(terms),
        }
    }

    /// Creates a goal for the most flows relative to the fewest.
    pub(crate) const fn growth(case: &'static str, factor: f64) -> Self {
        Self {
            case,
            limit: Limit::Growth(factor),
        }
    }

    /// Compares the goal with the figures; nothing if a figure is missing.
    pub(crate) fn outcomes(&self, results: &[Measured], flows: &[u32]) -> Vec<Outcome> {
        let net = |case: &str, flows: u32| {
            let found = |r: &&Measured| r.case == case && r.flows == flows;
            results.iter().find(found).map(|result| result.net_ns)
        };
        match self.limit {
            Limit::Each(terms) => {
                // With a single term its factor is shown; a sum counts as 1.
                let unit = match terms {
                    [(factor, _)] => *factor,
                    _ => 1.0,
                };
                let at = |flows: u32| {
                    let mut allowed = 0.0;
                    for (factor, case) in terms {
                        allowed += factor * net(case, flows)?;
                    }
                    Some(self.outcome(flows, net(self.case, flows)? / allowed * unit, unit))
                };
                flows.iter().filter_map(|flows| at(*flows)).collect()
            }
            Limit::Growth(limit) => {
                let at = || {
                    let (few, most) = (*flows.iter().min()?, *flows.iter().max()?);
                    let ratio = net(self.case, most)? / net(self.case, few)?;
                    (few != most).then(|| self.outcome(most, ratio, limit))
                };
                at().into_iter().collect()
            }
        }
    }

    fn outcome(&self, flows: u32, ratio: f64, limit: f64) -> Outcome {
        Outcome {
            goal: self.words(),
            flows,
            ratio,
            limit,
            met: ratio <= limit,
        }
    }

    fn words(&self) -> String {
        let of = match self.limit {
            Limit::Each(terms) => terms
                .iter()
                .map(|(factor, case)| match factor {
                    1.0 => (*case).to_owned(),
                    factor => format!("{factor} x {case}"),
                })
                .collect::<Vec<_>>()
                .join(" + "),
            Limit::Growth(factor) => format!("{factor} x itself with the fewest flows"),
        };
        format!("{} <= {of}", self.case)
    }
}
