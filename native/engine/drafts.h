// How many drafts the next round makes, by the rule of mlx_gemma4_assist/drafts, which says what each constant is for.
// A table of cases that Python writes (tests/test_native.py) holds both to the same choices.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <valarray>
#include <vector>

namespace gemma4 {

using Curve = std::valarray<double>;
using Seconds = std::optional<double>;

// A moving average for a whole curve at once (drafts/curve.py).
struct DriftingCurve {
  Curve mean;
  std::vector<Curve> covariance, regained;
  double kept;

  template <class Mean, class Spread>
  DriftingCurve(int points, double forgetting, Mean first, Spread spread) : mean(points), kept(1 - forgetting) {
    for (int i = 0; i < points; ++i) {
      Curve row(points);
      for (int j = 0; j < points; ++j) row[j] = spread(i, j);
      mean[i] = first(i), covariance.push_back(row), regained.push_back(forgetting * row);
    }
  }
  void observe(size_t at, double surprise, double variance) {
    const Curve column = covariance[at], shares = column / (column[at] + variance);
    mean += surprise * shares;
    for (size_t i = 0; i < mean.size(); ++i) covariance[i] -= shares[i] * column;
  }
  void forget() {
    for (size_t i = 0; i < mean.size(); ++i) covariance[i] = kept * covariance[i] + regained[i];
  }
  double deviation(size_t a, size_t b) const {
    return std::sqrt(std::max(0.0, covariance[a][a] + covariance[b][b] - 2 * covariance[a][b]));
  }
};

class AutoDraftLength {
 public:
  explicit AutoDraftLength(int longest)
      : acceptance_(longest, 2.5e-3 * kForgetEvery, [](int) { return std::log(0.6 / (1 - 0.6)); },
                    [](int i, int j) { return 1.5 * 1.5 + 0.39 * 0.39 * std::min(i, j); }),
        costs_(longest + 1, 1e-4 * kForgetEvery, [](int k) { return std::log(1 + 0.3 * k); },
               [](int i, int j) { return 1.0 + slope(i) * slope(j) + 0.06 * 0.06 * std::min(i, j); }),
        timed_(longest + 1, -1), stood_(longest), reached_(longest) { weigh(); }

  int choose() {
    if (opening_ < 8) return std::min(best_, opening_++ < 4 ? 0 : 1);
    if (probe_.drafts < 0 && savings_ >= 0.05 && rounds_ % 4 == 0)
      if (const int drafts = worth_a_probe(); drafts != best_) probe_ = {drafts};
    if (probe_.drafts >= 0 && probe_.chosen < kProbeRounds) return ++probe_.chosen, probe_.drafts;
    return best_;
  }

  // A round was read: of its drafts so many were accepted; the time is what passed since the round before was read.
  void observe(int drafted, int accepted, Seconds seconds) {
    account(drafted, 1.0 + accepted, seconds);
    if (rounds_ % kForgetEvery == 0) acceptance_.forget(), costs_.forget();
    const bool learned = drafted && learn(drafted, accepted);
    if (time(drafted) || learned) weigh();
    last_ = {drafted, seconds};
  }

 private:
  static constexpr int kForgetEvery = 16, kProbeRounds = 2;
  struct Probe { int drafts = -1, chosen = 0, seen = 0, age = 0; double worth = 0, expected = 0, taken = 0; };
  struct Round { int drafts = 0; Seconds seconds; };

  DriftingCurve acceptance_, costs_;  // logits; logarithms of times
  std::vector<int> timed_;  // how many times were learned from; -1 before the first, which is not
  std::vector<double> passed_over_;      // the last times in a row that were not learned from
  std::vector<double> stood_, reached_;  // drafts at each place, in rounds that were not learned from yet
  std::vector<double> cost_, tokens_;  // of rounds with 0, 1, ... drafts: in plain steps; as expected
  double value_ = 0, savings_ = 0, noise_ = 0.01;
  int best_ = 0, opening_ = 0, rounds_ = 0, drafted_rounds_ = 0, losses_ = 0, timings_ = 0, streak_ = 0;
  bool known_ = false;  // that a plain step takes so many seconds
  Round last_;
  Probe probe_;

  static double logistic(double logit) { return 1 / (1 + std::exp(-logit)); }
  static double slope(int k) { return 0.8 * 0.3 * k / (1 + 0.3 * k); }

  template <class Chance>
  std::vector<double> expected(Chance chance) const {
    std::vector<double> tokens{1.0};
    double all = 1;
    for (size_t at = 0; at < acceptance_.mean.size(); ++at) tokens.push_back(tokens.back() + (all *= chance(at)));
    return tokens;
  }
  void weigh() {
    tokens_ = expected([&](int at) { return logistic(acceptance_.mean[at]); });
    cost_ = {1.0}, best_ = 0, value_ = 1.02;
    for (size_t k = 1; k < tokens_.size(); ++k) {
      cost_.push_back(std::max(std::exp(costs_.mean[k] - costs_.mean[0]), cost_.back() + 0.05));
      if (const double value = tokens_[k] / cost_[k]; value > value_) value_ = value, best_ = static_cast<int>(k);
    }
  }
  int worth_a_probe() const {  // the cheapest that may be better than the best and that savings can pay
    const auto hoped = expected([&](int at) {
      const double more = at < best_ ? 0 : std::sqrt(acceptance_.covariance[at][at]);
      return best_ == 0 ? 1.0 : logistic(acceptance_.mean[at] + more);
    });
    int cheapest = best_;
    double price = savings_;
    for (int k = 0; k < static_cast<int>(cost_.size()); ++k) {
      const double loss = kProbeRounds * (cost_[k] - tokens_[k] / value_);
      const double hope = hoped[k] / (cost_[k] * std::exp(-2.0 * costs_.deviation(k, best_)));
      if (k != best_ && loss <= price && hope > value_) cheapest = k, price = loss;
    }
    return cheapest;
  }
  void charge(double cost, double worth, Seconds seconds) {
    probe_.worth += worth, probe_.expected += cost;
    probe_.taken += seconds && known_ && *seconds > 0 ? *seconds / std::exp(costs_.mean[0]) : cost;
  }
  void account(int drafted, double emitted, Seconds seconds) {  // drafts/probes.py
    if (probe_.drafts >= 0 && drafted == probe_.drafts) {
      if (probe_.seen++ == 0) charge(cost_[last_.drafts], cost_[last_.drafts], last_.seconds);
      charge(cost_[drafted], emitted / value_, seconds);
    }
    if (probe_.drafts >= 0 && (++probe_.age > kProbeRounds + 2 || probe_.seen == kProbeRounds)) {
      const double gain = probe_.worth - std::min(probe_.taken, 1.5 * probe_.expected);
      savings_ += gain - 0.05;
      losses_ = gain > 0 ? 0 : std::min(losses_ + 1, 4);
      probe_ = {};
    }
    savings_ = std::min(savings_ + 0.02 * std::pow(0.75, losses_) * cost_[drafted], 2.0);
    ++rounds_;
  }
  bool learn(int drafted, int accepted) {  // drafts/acceptance.py; whether there was something to learn yet
    for (int at = 0; at < drafted && at <= accepted; ++at) reached_[at] += 1, stood_[at] += accepted > at;
    if (++drafted_rounds_ > 16 && drafted_rounds_ % 4) return false;
    for (size_t at = 0; at < acceptance_.mean.size(); ++at) {
      const double chance = logistic(acceptance_.mean[at]), spread = std::max(chance * (1 - chance), 0.02);
      if (!reached_[at]) continue;
      acceptance_.observe(at, (stood_[at] / reached_[at] - chance) / spread, 1 / (reached_[at] * spread));
      stood_[at] = reached_[at] = 0;
    }
    return true;
  }
  bool time(int drafted) {  // drafts/costs.py; whether there was something to learn from rounds before
    if (last_.drafts != drafted) {
      streak_ = 0;
      std::vector<double> sorted = std::exchange(passed_over_, {});
      std::ranges::sort(sorted);
      const size_t count = sorted.size();
      return count && (learn_time(last_.drafts, (sorted[(count - 1) / 2] + sorted[count / 2]) / 2), true);
    }
    ++streak_;
    if (!last_.seconds || *last_.seconds <= 0) return false;
    if (timed_[drafted] < 0) return timed_[drafted] = 0, false;
    const int every = timed_[drafted] >= 64 ? 64 : timed_[drafted] >= 32 ? 8 : 1;
    if (every > 1 && streak_ % every != 2) {
      if (passed_over_.size() == 3) passed_over_.erase(passed_over_.begin());
      if (streak_ >= 2) passed_over_.push_back(*last_.seconds);
      return false;
    }
    passed_over_.clear();
    learn_time(drafted, *last_.seconds);
    return true;
  }
  void learn_time(int drafted, double seconds) {
    ++timed_[drafted];
    double surprise = std::log(seconds) - costs_.mean[drafted];
    if (!known_) costs_.mean += std::exchange(surprise, 0), known_ = true;
    const double variance = costs_.covariance[drafted][drafted], limit = 3.0 * std::sqrt(variance + noise_);
    if (surprise < -limit) costs_.mean += surprise + limit;
    surprise = std::max(-limit, std::min({surprise, limit, 0.4}));
    costs_.observe(drafted, surprise, noise_);
    const double seen = std::max(surprise * surprise - variance, 0.02 * 0.02);
    noise_ += std::max(0.03, 1.0 / (++timings_ + 2)) * (seen - noise_);
  }
};

}  // namespace gemma4
