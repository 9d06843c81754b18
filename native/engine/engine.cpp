// Texts: prompts read in pieces, rounds with one in flight behind the one that is read, keys kept between turns.
#include <unistd.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "bundle.h"
#include "drafts.h"
#include "include/gemma4.h"

namespace gemma4 {
namespace {

// The one thread that uses MLX, whose streams and compiled functions are a thread's own. It never ends, and nothing of
// it is destroyed: a process may be left at any time, and then only waits for the device.
class Worker {
 public:
  static Worker& only() {
    static Worker& worker = *new Worker;
    return worker;
  }
  template <class Job>
  auto run(Job job) -> decltype(job()) {  // waits for it
    std::packaged_task<decltype(job())()> task(std::move(job));
    auto result = task.get_future();
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back([&] { task(); });
    }
    wakes_.notify_one();
    return result.get();
  }
  // At exit, before what exists now is destroyed: what is made later goes before it.
  static void drain_at_exit() {
    std::atexit([] {
      only().leaving = true;
      only().run([] { mx::synchronize(); });
    });
  }
  std::atomic<bool> leaving = false;

 private:
  std::mutex mutex_;
  std::condition_variable wakes_;
  std::deque<std::function<void()>> jobs_;

  Worker() {
    std::thread([this] {
      mx::set_default_stream(mx::new_thread_unsafe_stream(mx::default_device()));
      for (;;) {
        std::unique_lock lock(mutex_);
        wakes_.wait(lock, [this] { return !jobs_.empty(); });
        const auto job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        job();
      }
    }).detach();
    run([] { mx::eval(mx::zeros({1})); });
    drain_at_exit();
  }
};

bool can_compile() {  // on a CPU, MLX builds kernels with g++
  if (mx::default_device() != mx::Device::cpu) return true;
  std::istringstream path(std::getenv("PATH") ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(path, folder, ':');)
    if (access((folder + "/g++").c_str(), X_OK) == 0) return true;
  return false;
}

int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

struct Model {
  Bundle bundle;
  bool compiles;
  AutoDraftLength learned;

  Model(const std::string& folder, const gemma4_options& options)
      : bundle(folder), compiles(options.compile < 0 ? can_compile() : options.compile), learned(std::max(1, bundle.drafts)) {
    if (options.cache_limit) mx::set_cache_limit(options.cache_limit);
    if (options.memory_limit) mx::set_memory_limit(options.memory_limit);
  }

  // Where attention of a round that ends at this position ends: compiled, seldom at another.
  int64_t end_for(int64_t position) const {
    const uint64_t growth = position / (int64_t{bundle.bucket_growth_share} * bundle.bucket);
    const int64_t bucket = int64_t{bundle.bucket} << std::max(0, static_cast<int>(std::bit_width(growth)) - 1);
    return std::max<int64_t>(bundle.least_end, round_up(position, compiles ? bucket : bundle.end_step));
  }

  // A program's outputs, but logits, each of the shape that the next round takes.
  Arrays run(const Program& program, Arrays given, const Variables& variables, int drafts = -1) {
    const auto function = [this, &program, variables, drafts](const Arrays& inputs) {
      return kept(program, inputs, program.run(bundle.fixed, bundle.folded, inputs, variables), drafts);
    };
    if (drafts < 0 || !compiles || !is_worth_tracing(&program, drafts, variables[0].second)) return function(given);
    if (compiled_.size() >= kMostTraces) compiled_.clear();
    auto [found, is_new] = compiled_.try_emplace({&program, variables[0].second});
    if (is_new) found->second = mx::compile(function);
    Arrays made = found->second(given);
    given.clear();  // so that buffers are written in place
    mx::async_eval(made);
    if (is_new) Worker::drain_at_exit();
    return made;
  }

 private:
  using Key = std::pair<const Program*, int64_t>;
  static constexpr size_t kMostTraces = 64;
  std::map<Key, std::function<Arrays(const Arrays&)>> compiled_;
  std::map<int, double> shares_;  // of the recent rounds
  std::set<Key> asked_;

  // As rounds/compiled.py says: what is not asked for again is not traced.
  bool is_worth_tracing(const Program* program, int drafts, int64_t end) {
    for (auto& [_, share] : shares_) share *= 1 - 1.0 / 16;
    shares_[drafts] += 1.0 / 16;
    if (compiled_.contains({program, end}) || shares_[drafts] >= 0.2) return true;
    return drafts == 0 && !asked_.insert({program, end}).second;
  }

  Arrays kept(const Program& program, const Arrays& given, const Arrays& made, int drafts) const {
    Arrays found;
    for (size_t i = 0; i < made.size(); ++i) {
      const std::string& name = program.outputs[i].first;
      if (name == "logits" && made[i].shape(-1) == bundle.vocabulary) continue;
      bool fits = made[i].dtype() == mx::int32 &&
                  made[i].shape() == (name == "tokens" ? mx::Shape{1, drafts + 1} : mx::Shape{1});
      for (size_t j = 0; j < given.size(); ++j)
        if (program.inputs[j].name == name) fits = made[i].dtype() == given[j].dtype() && made[i].shape() == given[j].shape();
      if (!fits) throw Error("the program " + program.name + " gives another " + name + " than it takes");
      found.push_back(name == "tokens" || name == "accepted" ? mx::contiguous(made[i]) : made[i]);
    }
    return found;
  }
};

class Text {
 public:
  std::atomic<bool> cancelled = false;

  explicit Text(std::shared_ptr<Model> model) : model_(std::move(model)) {}

  void begin(std::vector<int32_t> ids, const gemma4_request& asked) {
    check(ids, asked);
    request_ = asked;
    drafts_.assign(asked.drafts, asked.drafts + asked.draft_count);
    prompt_ = std::move(ids);
    budget_ = std::min<int64_t>(asked.max_tokens, bundle().context - static_cast<int64_t>(prompt_.size()));
    flying_.clear();
    const auto last = prompt_.end() - 1;
    rewind(std::mismatch(prompt_.begin(), last, ids_.begin(), ids_.end()).first - prompt_.begin());
    kept_ = static_cast<int32_t>(ids_.size());
    made_ = chosen_ = 0, finished_ = cancelled = false, started_ = false, read_at_.reset(), pause_ = 0;
  }

  gemma4_piece next() {
    if (finished_) throw Error("the text has ended, or has not begun");
    pause_ = seconds() - left_at_;
    gemma4_piece piece{};
    try {
      if (cancelled) piece.finish = GEMMA4_CANCELLED;
      else if (const int64_t left = static_cast<int64_t>(prompt_.size() - 1 - ids_.size()); left > 0 && !started_) read(left);
      else round(piece);
    } catch (...) {
      reset();  // what the device was doing with the buffers is not known
      throw;
    }
    piece.kept = kept_;
    piece.to_read = static_cast<int32_t>(prompt_.size()) - 1;
    piece.read = std::min(piece.to_read, static_cast<int32_t>(ids_.size()));
    if (piece.finish != GEMMA4_GOES_ON) finished_ = true, flying_.clear(), mx::clear_cache();
    left_at_ = seconds();
    return piece;
  }

 private:
  struct Flight { mx::array tokens, accepted; int drafts; };

  std::shared_ptr<Model> model_;
  std::map<std::string, mx::array, std::less<>> state_;  // what programs take, by name
  std::vector<int32_t> ids_;  // whose keys are there, as far as rounds were read
  int64_t written_ = 0;       // positions before which anything may have been written
  std::vector<int32_t> prompt_, drafts_;
  gemma4_request request_{};
  std::deque<Flight> flying_;
  int64_t budget_ = 0, made_ = 0, chosen_ = 0;
  int32_t newest_ = 0, kept_ = 0;
  bool started_ = false, finished_ = true;
  Seconds read_at_;
  double left_at_ = 0, pause_ = 0;

  const Bundle& bundle() const { return model_->bundle; }
  static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  void set(std::string_view name, mx::array value) { state_.insert_or_assign(std::string(name), std::move(value)); }

  void check(const std::vector<int32_t>& ids, const gemma4_request& asked) const {
    if (ids.empty()) throw Error("the prompt is empty");
    if (ids.size() >= static_cast<size_t>(bundle().context)) throw Error("the prompt is longer than the model's context");
    for (const int32_t id : ids)
      if (id < 0 || id >= bundle().vocabulary) throw Error("the prompt has the id " + std::to_string(id));
    for (size_t i = 0; i < asked.draft_count; ++i)
      if (asked.drafts[i] < 0 || asked.drafts[i] > bundle().drafts) throw Error("the bundle has no rounds of so many drafts");
    const auto within = [](float value, float least, float most) { return value >= least && value <= most; };
    if (asked.max_tokens < 1 || !within(asked.temperature, 0, 1e4) || !within(asked.draft_temperature, 0, 1e4) ||
        (asked.temperature > 0 && (!within(asked.top_p, 1e-6f, 1) || !within(asked.min_p, 0, 1) || asked.top_k > bundle().most_top_k ||
                                   asked.top_k < (asked.top_p < 1 ? 1 : 0))))
      throw Error("the request has a setting that is out of bounds");
  }

  void reset() {
    flying_.clear(), state_.clear(), ids_.clear();
    written_ = 0, finished_ = true;
  }

  // Go on from so many entries; from none where a ring has lost what came before them.
  void rewind(int64_t length) {
    bool allowed = true;
    for (const auto& layer : bundle().layers)
      allowed &= layer.full || written_ <= std::max<int64_t>(0, length - bundle().window) + bundle().ring;
    ids_.resize(allowed ? length : 0);
    if (!allowed) written_ = 0;
    set("length", mx::array({static_cast<int32_t>(ids_.size())}));
  }

  // Room for so many positions in linear buffers; rings are always whole.
  void reserve(int64_t slots) {
    for (size_t i = 0; i < bundle().layers.size(); ++i)
      for (const char* kind : {"keys.", "values."}) {
        const auto& layer = bundle().layers[i];
        const auto found = state_.find(kind + std::to_string(i));
        const int64_t there = found == state_.end() ? 0 : found->second.shape(2);
        if (there >= (layer.full ? slots : bundle().ring)) continue;
        const int64_t wanted = layer.full ? round_up(std::max(slots, there + there / 16), bundle().growth) : bundle().ring;
        auto more = mx::zeros({1, layer.heads, static_cast<int>(wanted - there), layer.width}, bundle().dtype);
        set(kind + std::to_string(i), there ? mx::concatenate({found->second, more}, 2) : more);
      }
  }

  // The outputs of a program become the state; tokens and accepted are among them.
  void run(const Program& program, const Variables& variables, int drafts = -1) {
    Arrays given;
    for (const auto& each : program.inputs) {
      const auto found = state_.find(each.name);
      if (found == state_.end()) throw Error("the program " + program.name + " takes " + each.name);
      given.push_back(found->second);
    }
    for (const auto& [name, _] : program.outputs) state_.erase(name);
    Arrays made = model_->run(program, std::move(given), variables, drafts);
    size_t place = 0;
    for (const auto& [name, _] : program.outputs)
      if (name != "logits") set(name, made[place++]);
    mx::async_eval(made);
  }

  // A piece of the prompt. One token alone is a round of no drafts whose own token is left out.
  void read(int64_t left) {
    const int64_t begin = static_cast<int64_t>(ids_.size()), most = bundle().reads.empty() ? 1 : bundle().reads.back().most;
    const int64_t count = left - most == 1 && most > 2 ? most - 1 : std::min(left, most);
    const auto found = std::find_if(bundle().reads.begin(), bundle().reads.end(),
                                    [&](const auto& each) { return each.least <= count && count <= each.most; });
    const auto first = prompt_.begin() + begin;
    const bool alone = found == bundle().reads.end();
    if (alone) {
      start(*first), submit(0, true), flying_.clear();
    } else {
      Variables variables;
      for (const auto& each : found->program.variables) variables.emplace_back(each, each == "begin" ? begin : count);
      reserve(begin + count);
      written_ = std::max(written_, begin + count);
      set("ids", mx::array(&*first, {1, static_cast<int>(count)}, mx::int32));
      run(found->program, variables);
    }
    mx::synchronize();
    ids_.insert(ids_.end(), first, first + (alone ? 1 : count));
    set("length", mx::array({static_cast<int32_t>(ids_.size())}));
  }

  // The state before a round that continues this token; no hidden state is there to draft from.
  void start(int32_t token) {
    newest_ = token;
    set("token", mx::array(&token, {1, 1}, mx::int32));
    set("hidden", mx::zeros({1, 1, bundle().hidden}, bundle().hidden_dtype));
  }

  void start() {
    started_ = true;
    start(prompt_.back());
    const auto key = mx::random::split(mx::random::split(mx::random::key(request_.seed)).first).first;
    set("noise", mx::reshape(key, {1, 2}));
    set("top_k", mx::array({request_.top_k}));
    set("temperature", mx::array({request_.temperature})), set("draft_temperature", mx::array({request_.draft_temperature}));
    set("top_p", mx::array({request_.top_p})), set("min_p", mx::array({request_.min_p}));
    mx::clear_cache();  // of what reading the prompt has left
  }

  void submit(int drafts, bool greedy) {
    int64_t end = static_cast<int64_t>(ids_.size()) + drafts + 1;
    for (const auto& each : flying_) end += each.drafts + 1;
    const int64_t reach = model_->end_for(end);
    reserve(reach);
    written_ = std::max(written_, end);
    run((greedy ? bundle().greedy : bundle().sampled)[drafts], {{"end", reach}}, drafts);
    flying_.push_back({state_.at("tokens"), state_.at("accepted"), drafts});
  }

  // Drafts of the next round, of a text that lacks so many tokens. A seed whose drafts are drawn has always the same.
  int choose(int64_t left) {
    if (made_ == 0) return 0;
    const int chosen = drafts_.empty() ? model_->learned.choose() : drafts_[chosen_++ % drafts_.size()];
    const bool steady = request_.temperature > 0 && request_.draft_temperature > 0;
    return static_cast<int>(steady ? chosen : std::min<int64_t>(chosen, left - 1));
  }

  void round(gemma4_piece& piece) {
    if (!started_) start();
    for (int64_t left; static_cast<int64_t>(flying_.size()) <= (made_ ? 1 : 0) &&
                       (left = budget_ - made_ - static_cast<int64_t>(flying_.size())) > 0;)
      submit(bundle().drafts ? choose(left) : 0, request_.temperature == 0);
    const Flight flight = std::move(flying_.front());
    flying_.pop_front();
    mx::array tokens = flight.tokens, accepted = flight.accepted;
    tokens.wait(), accepted.wait();
    piece.drafted = flight.drafts, piece.accepted = *accepted.data<int32_t>();
    if (piece.accepted < 0 || piece.accepted > piece.drafted) throw Error("a round accepts what it has not drafted");
    learn(piece);
    for (int i = 0; i <= piece.accepted && piece.finish == GEMMA4_GOES_ON; ++i) {
      const int32_t token = tokens.data<int32_t>()[i];
      if (token < 0 || token >= bundle().vocabulary) throw Error("a round gives an id beyond the vocabulary");
      ids_.push_back(std::exchange(newest_, token));
      piece.tokens[piece.count++] = token;
      ++made_;
      if (std::find(bundle().stops.begin(), bundle().stops.end(), token) != bundle().stops.end()) piece.finish = GEMMA4_STOPPED;
      else if (made_ >= budget_) piece.finish = GEMMA4_LENGTH;
    }
    piece.accepted = std::min(piece.accepted, piece.count);
  }

  // From how long it took from one round's reading to the next one's, unless the caller was away for long.
  void learn(const gemma4_piece& piece) {
    const double now = seconds();
    const Seconds took = read_at_ ? Seconds(now - *read_at_) : std::nullopt;
    read_at_ = now;
    if (drafts_.empty()) model_->learned.observe(piece.drafted, piece.accepted, took && pause_ <= 0.25 * *took ? took : std::nullopt);
  }
};

template <class Value, class Action>
Value told(char* error, size_t size, Value failed, Action action) {
  try {
    if (Worker::only().leaving) throw Error("the process is ending");
    return Worker::only().run(action);
  } catch (const std::exception& what) {
    if (error && size) std::strncpy(error, what.what(), size - 1), error[size - 1] = '\0';
    return failed;
  }
}

}  // namespace
}  // namespace gemma4

using namespace gemma4;

struct gemma4_model { std::shared_ptr<Model> model; };
struct gemma4_text { Text text; };

gemma4_model* gemma4_open(const char* folder, const gemma4_options* options, char* error, size_t size) {
  return told<gemma4_model*>(error, size, nullptr, [&] {
    return new gemma4_model{std::make_shared<Model>(folder, options ? *options : gemma4_options{-1, 0, 0})};
  });
}

const char* gemma4_manifest(const gemma4_model* model) { return model->model->bundle.manifest.c_str(); }

void gemma4_close(gemma4_model* model) {
  told(nullptr, 0, 0, [&] { return mx::synchronize(), delete model, mx::clear_cache(), 0; });
}

gemma4_text* gemma4_new_text(gemma4_model* model, char* error, size_t size) {
  return told<gemma4_text*>(error, size, nullptr, [&] { return new gemma4_text{Text(model->model)}; });
}

void gemma4_free_text(gemma4_text* text) {
  told(nullptr, 0, 0, [&] { return mx::synchronize(), delete text, mx::clear_cache(), 0; });
}

int gemma4_begin(gemma4_text* text, const int32_t* ids, size_t count, const gemma4_request* request, char* error, size_t size) {
  return told(error, size, -1, [&] { return text->text.begin({ids, ids + count}, *request), 0; });
}

int gemma4_next(gemma4_text* text, gemma4_piece* piece, char* error, size_t size) {
  return told(error, size, -1, [&] { return *piece = text->text.next(), 0; });
}

void gemma4_cancel(gemma4_text* text) { text->text.cancelled = true; }

gemma4_memory gemma4_memory_in_use() { return {mx::get_active_memory(), mx::get_cache_memory(), mx::get_peak_memory()}; }
