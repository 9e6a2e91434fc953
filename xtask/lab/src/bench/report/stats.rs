//! Medians and spreads of a few samples, and ratios of series that were taken in turn. Pure.
//!
//! A bench of five to nine rounds has too few samples for a deviation to mean much, and one disturbed round would move a mean. So what is
//! printed is the median, and as the spread the whole range from the lowest to the highest sample: with so few, each of them is something
//! that happened, and a range hides none. The quartiles are there for whoever wants to know whether the range is one odd round; the page
//! and the JSON have them.
//!
//! The machine drifts within a run, and contenders are measured in turn in each round. So two of them are compared round by round, and the
//! median of those ratios is what goals are about, not the ratio of the medians.

use serde::Serialize;

/// What a few samples say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Samples it is of.
    pub count: usize,
    /// The smallest.
    pub lowest: f64,
    /// A quarter of the samples lie below.
    pub lower_quartile: f64,
    /// Half of the samples lie below.
    pub median: f64,
    /// A quarter of the samples lie above.
    pub upper_quartile: f64,
    /// The largest.
    pub highest: f64,
}

impl Summary {
    /// Of every sample that is a number; `None` if there is none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
        let quarter = |quarters| quantile(&sorted, quarters);
        Some(Self { count: sorted.len(), lowest, lower_quartile: quarter(1), median: quarter(2), upper_quartile: quarter(3), highest })
    }

    /// From the lowest to the highest sample, as a fraction of the median. `None` where the median is zero and the range is not.
    #[must_use]
    pub fn spread(&self) -> Option<f64> {
        let range = self.highest - self.lowest;
        let spread = if range == 0.0 { 0.0 } else { range / self.median.abs() };
        spread.is_finite().then_some(spread)
    }
}

/// The value that so many quarters of the samples lie below, between two samples by linear interpolation.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let last = sorted.len() - 1;
    let (below, rest) = (last * quarters / 4, last * quarters % 4);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    // `rest` is 0 to 3. Two halves instead of a difference: the latter overflows for samples at both ends of what f64 holds.
    let share = [0.0, 0.25, 0.5, 0.75][rest];
    low * (1.0 - share) + high * share
}

/// Sample by sample, the first series divided by the second. Rounds that one of them has no sample for, or whose divisor is zero, are left out.
#[must_use]
pub fn ratios(contender: &[f64], rival: &[f64]) -> Vec<f64> {
    contender.iter().zip(rival).map(|(contender, rival)| contender / rival).filter(|ratio| ratio.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary, Summary { count: 4, lowest: 1.0, lower_quartile: 1.75, median: 2.5, upper_quartile: 3.25, highest: 4.0 });
        assert_eq!(summary.spread(), Some(3.0 / 2.5));
    }

    #[test]
    fn quartiles_of_five_are_the_second_and_the_fourth() {
        let summary = Summary::of(&[50.0, 10.0, 40.0, 20.0, 30.0]).unwrap();
        assert_eq!((summary.lower_quartile, summary.median, summary.upper_quartile), (20.0, 30.0, 40.0));
    }

    #[test]
    fn one_odd_round_does_not_move_the_median_of_ratios() {
        // The machine slows down threefold and one round of the rival was disturbed: the ratio stays two.
        let ratios = ratios(&[6.0, 5.0, 4.0, 3.0, 2.0], &[3.0, 2.5, 0.1, 1.5, 1.0]);
        let summary = Summary::of(&ratios).unwrap();
        assert_eq!((summary.median, summary.lowest, summary.highest), (2.0, 2.0, 40.0));
    }

    #[test]
    fn a_round_without_a_sample_takes_no_part() {
        assert_eq!(ratios(&[4.0, f64::NAN, 9.0, 1.0], &[2.0, 5.0, f64::NAN, 0.0]), [2.0]);
        assert_eq!(ratios(&[1.0, 2.0], &[1.0]), [1.0]);
        assert_eq!(Summary::of(&[f64::NAN, 7.0]).unwrap().count, 1);
        assert_eq!(Summary::of(&[f64::NAN]), None);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn counts_that_are_all_zero_have_no_spread_and_a_stray_one_an_unknown_spread() {
        assert_eq!(Summary::of(&[0.0; 5]).unwrap().spread(), Some(0.0));
        assert_eq!(Summary::of(&[0.0, 0.0, 3.0]).unwrap().spread(), None);
    }

    fn samples() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(1e-9..1e12, 1..12)
    }

    proptest! {
        #[test]
        fn a_summary_is_in_order_and_within_the_samples(samples in samples()) {
            let summary = Summary::of(&samples).unwrap();
            let order = [summary.lowest, summary.lower_quartile, summary.median, summary.upper_quartile, summary.highest];
            // Interpolation between two equal samples may be off by the last bit.
            prop_assert!(order.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-12)), "{order:?}");
            prop_assert!(samples.contains(&summary.lowest) && samples.contains(&summary.highest));
            let below = samples.iter().filter(|sample| **sample < summary.median * (1.0 - 1e-12)).count();
            let above = samples.iter().filter(|sample| **sample > summary.median * (1.0 + 1e-12)).count();
            prop_assert!(below * 2 <= samples.len() && above * 2 <= samples.len());
        }

        #[test]
        fn the_order_of_samples_does_not_matter(samples in samples()) {
            let reversed: Vec<f64> = samples.iter().rev().copied().collect();
            prop_assert_eq!(Summary::of(&samples), Summary::of(&reversed));
        }

        #[test]
        fn drift_that_hits_both_alike_leaves_the_ratio(ratio in 0.1..10.0_f64, rival in samples(), drift in prop::collection::vec(0.5..2.0, 12)) {
            let rival: Vec<f64> = rival.iter().zip(&drift).map(|(sample, drift)| sample * drift).collect();
            let contender: Vec<f64> = rival.iter().map(|sample| sample * ratio).collect();
            let summary = Summary::of(&ratios(&contender, &rival)).unwrap();
            prop_assert!((summary.median / ratio - 1.0).abs() < 1e-9);
            prop_assert!(summary.spread().unwrap() < 1e-9);
        }
    }
}
