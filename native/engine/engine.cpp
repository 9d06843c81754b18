// Texts: prompts read in pieces, rounds with one in flight behind the one that is read, keys kept between turns.
#include <unistd.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <deque>
#include <functional>
#include <mutex>
#include <semaphore>
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
  void run(const std::function<void()>& job) {  // waits for it
    const std::lock_guard one_after_the_other(calls_);
    job_ = &job;
    asked_.release();
    done_.acquire();
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
  std::mutex calls_;
  std::binary_semaphore asked_{0}, done_{0};
  const std::function<void()>* job_ = nullptr;

  Worker() {
    std::thread([this] {
      mx::set_default_stream(mx::new_thread_unsafe_stream(mx::default_device()));
      for (;;) asked_.acquire(), (*job_)(), done_.release();
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

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Model {
  Bundle bundle;
  bool compiles, logits = false;  // that are wanted
  AutoDraftLength learned;

  Model(const std::string& folder, const gemma4_options& options)
      : bundle(folder),
        compiles(options.compile < 0 ? can_compile() : options.compile),
        learned(std::max(1, bundle.drafts)) {
    if (options.cache_limit) mx::set_cache_limit(options.cache_limit);
    if (options.memory_limit) mx::set_memory_limit(options.memory_limit);
  }

  // Where attention of a round that ends at this position ends: compiled, seldom at another.
  int64_t end_for(int64_t position) const {
    const uint64_t growth = position / (int64_t{bundle.bucket_growth_share} * bundle.bucket);
    const int64_t bucket = int64_t{bundle.bucket} << std::max(0, static_cast<int>(std::bit_width(growth)) - 1);
    return std::max<int64_t>(bundle.least_end, round_up(position, compiles ? bucket : bundle.end_step));
  }

  void want_logits() { logits = true, compiled_.clear(); }

  // A program's outputs, under way. Rounds, of so many drafts, are compiled where that pays.
  Arrays run(const Program& program, Arrays given, const Variables& variables, int drafts = -1) {
    const Function plain = [this, &program, variables](const Arrays& inputs) {
      return program.run(bundle.fixed.arrays, inputs, variables, logits);
    };
    const Function* function = &plain;
    bool is_new = false;
    if (drafts >= 0 && compiles && is_worth_tracing({&program, variables.at("end")}, drafts)) {
      if (compiled_.size() >= kMostTraces) compiled_.clear();
      auto& known = compiled_[{&program, variables.at("end")}];
      if ((is_new = !known)) known = mx::compile(plain);
      function = &known;
    }
    Arrays made = (*function)(given);
    given.clear();  // so that buffers are written in place
    mx::async_eval(made);
    if (is_new) Worker::drain_at_exit();
    return made;
  }

 private:
  using Key = std::pair<const Program*, int64_t>;
  using Function = std::function<Arrays(const Arrays&)>;
  static constexpr size_t kMostTraces = 64;
  std::map<Key, Function> compiled_;
  std::map<int, double> shares_;  // of the recent rounds, by drafts
  int64_t rounds_ = 16;           // so far; that it has begun with some counts against what comes first
  std::set<Key> asked_;

  // As rounds/compiled.py and rounds/recent.py say: what is not asked for again is not traced.
  bool is_worth_tracing(const Key& key, int drafts) {
    const double weight = 1.0 / std::clamp<int64_t>(++rounds_ / 2, 16, 512);
    for (auto& [_, share] : shares_) share *= 1 - weight;
    shares_[drafts] += weight;
    return compiled_.contains(key) || shares_[drafts] >= 0.2 || (drafts == 0 && !asked_.insert(key).second);
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
    left_ = std::min<int64_t>(asked.max_tokens, bundle().context - static_cast<int64_t>(prompt_.size()));
    flying_.clear();
    rewind(std::mismatch(prompt_.begin(), prompt_.end() - 1, ids_.begin(), ids_.end()).first - prompt_.begin());
    kept_ = static_cast<int32_t>(ids_.size());
    rounds_ = 0, finished_ = cancelled = false;
  }

  gemma4_piece next() {
    if (finished_) throw Error("the text has ended, or has not begun");
    away_ = now() - left_at_;
    gemma4_piece piece{};
    try {
      if (cancelled) piece.finish = GEMMA4_CANCELLED;
      else if (rounds_ == 0 && ids_.size() + 1 < prompt_.size()) read();
      else round(piece);
    } catch (...) {  // what the device was doing with the buffers is not known
      flying_.clear(), state_.clear(), ids_.clear();
      written_ = 0, finished_ = true;
      throw;
    }
    piece.kept = kept_;
    piece.to_read = static_cast<int32_t>(prompt_.size()) - 1;
    piece.read = std::min(piece.to_read, static_cast<int32_t>(ids_.size()));
    if (piece.finish != GEMMA4_GOES_ON) finished_ = true, flying_.clear(), mx::clear_cache();
    left_at_ = now();
    return piece;
  }

 private:
  struct Flight { mx::array tokens, accepted; std::optional<mx::array> logits; int drafts; };

  std::shared_ptr<Model> model_;
  std::map<std::string, mx::array, std::less<>> state_;  // what programs take, by name
  std::vector<int32_t> ids_;  // whose keys are there, as far as rounds were read
  int64_t written_ = 0;       // positions before which anything may have been written
  std::vector<int32_t> prompt_, drafts_;
  gemma4_request request_{};
  std::deque<Flight> flying_;
  int64_t left_ = 0, rounds_ = 0;  // tokens that the text lacks, rounds that were submitted
  int32_t newest_ = 0, kept_ = 0;
  bool finished_ = true;
  double read_at_ = 0, left_at_ = 0, away_ = 0;  // when a round was read; when the caller left, and for how long
  mx::array logits_ = mx::array(0.0f);

  const Bundle& bundle() const { return model_->bundle; }
  void set(const std::string& name, mx::array value) { state_.insert_or_assign(name, std::move(value)); }

  void check(const std::vector<int32_t>& ids, const gemma4_request& asked) const {
    const auto within = [](auto value, auto least, auto most) { return value >= least && value <= most; };
    if (ids.empty()) throw Error("the prompt is empty");
    if (ids.size() >= size_t(bundle().context)) throw Error("the prompt is longer than the model's context");
    for (const int32_t id : ids)
      if (!within(id, 0, bundle().vocabulary - 1)) throw Error("the prompt has the id " + std::to_string(id));
    for (size_t i = 0; i < asked.draft_count; ++i)
      if (!within(asked.drafts[i], 0, bundle().drafts)) throw Error("the bundle has no rounds of so many drafts");
    const bool filters = within(asked.top_p, 1e-6f, 1) && within(asked.min_p, 0, 1) &&
                         within(asked.top_k, asked.top_p < 1 ? 1 : 0, bundle().most_top_k);
    if (asked.max_tokens < 1 || !within(asked.temperature, 0, 1e4) || !within(asked.draft_temperature, 0, 1e4) ||
        (asked.temperature > 0 && !filters))
      throw Error("the request has a setting that is out of bounds");
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

  // Room for what is written before one position and attended to before another; rings are always whole.
  void reserve(int64_t written, int64_t slots) {
    written_ = std::max(written_, written);
    for (size_t i = 0; i < bundle().layers.size(); ++i)
      for (const auto& name : {"keys." + std::to_string(i), "values." + std::to_string(i)}) {
        const auto& layer = bundle().layers[i];
        const auto found = state_.find(name);
        const int64_t there = found == state_.end() ? 0 : found->second.shape(2);
        if (there >= (layer.full ? slots : bundle().ring)) continue;
        const int64_t grown = round_up(std::max(slots, there + there / 16), bundle().growth);
        const int64_t wanted = layer.full ? grown : bundle().ring;
        auto more = mx::zeros({1, layer.heads, static_cast<int>(wanted - there), layer.width}, bundle().dtype);
        set(name, there ? mx::concatenate({found->second, more}, 2) : more);
      }
  }

  // The outputs of a program become the state, what a round tells among them.
  void run(const Program& program, const Variables& variables, int drafts = -1) {
    Arrays given;
    for (const auto& each : program.inputs) {
      const auto found = state_.find(each.name);
      if (found == state_.end()) throw Error("the program " + program.name + " takes " + each.name);
      given.push_back(found->second);
    }
    for (const auto& [name, _] : program.outputs) state_.erase(name);
    Arrays made = model_->run(program, std::move(given), variables, drafts);
    auto each = made.begin();
    for (const auto& [name, _] : program.outputs)
      if (model_->logits || name != "logits") set(name, *each++);
  }

  // A piece of the prompt, all of which but the last token is read.
  void read() {
    const auto begin = static_cast<int64_t>(ids_.size()), left = static_cast<int64_t>(prompt_.size()) - 1 - begin;
    const int64_t count = std::min<int64_t>(left, bundle().reads.back().most);
    const auto program = std::ranges::find_if(bundle().reads, [&](const auto& each) { return count <= each.most; });
    const auto first = prompt_.begin() + begin;
    reserve(begin + count, begin + count);
    set("ids", mx::array(first, {1, static_cast<int>(count)}));
    run(program->program, {{"constant", 1}, {"begin", begin}, {"count", count}});
    mx::synchronize();
    ids_.insert(ids_.end(), first, first + count);
    set("length", mx::array({static_cast<int32_t>(ids_.size())}));
  }

  void start() {  // no hidden state is there to draft from
    newest_ = prompt_.back();
    set("token", mx::array({newest_}, {1, 1}));
    set("hidden", mx::zeros({1, 1, bundle().hidden}, bundle().hidden_dtype));
    const auto key = mx::random::split(mx::random::split(mx::random::key(request_.seed)).first).first;
    set("noise", mx::reshape(key, {1, 2}));
    set("top_k", mx::array({request_.top_k}));
    set("top_p", mx::array({request_.top_p})), set("min_p", mx::array({request_.min_p}));
    set("temperature", mx::array({request_.temperature}));
    set("draft_temperature", mx::array({request_.draft_temperature}));
    read_at_ = 0;
    mx::clear_cache();  // of what reading the prompt has left
  }

  void submit(int drafts) {
    int64_t end = static_cast<int64_t>(ids_.size()) + drafts + 1;
    for (const auto& each : flying_) end += each.drafts + 1;
    const int64_t reach = model_->end_for(end);
    reserve(end, reach);
    const auto& programs = request_.temperature > 0 ? bundle().sampled : bundle().greedy;
    run(programs[drafts], {{"constant", 1}, {"end", reach}}, drafts);
    const auto logits = model_->logits ? std::optional(state_.at("logits")) : std::nullopt;
    flying_.push_back({state_.at("tokens"), state_.at("accepted"), logits, drafts});
    ++rounds_;
  }

  // Drafts of the next round, of a text that lacks so many tokens. A seed whose drafts are drawn has always the same.
  int choose(int64_t lacks) {
    if (rounds_ == 0 || !bundle().drafts) return 0;
    const int chosen = drafts_.empty() ? model_->learned.choose() : drafts_[(rounds_ - 1) % drafts_.size()];
    const bool steady = request_.temperature > 0 && request_.draft_temperature > 0;
    return static_cast<int>(steady ? chosen : std::min<int64_t>(chosen, lacks - 1));
  }

  void round(gemma4_piece& piece) {
    if (rounds_ == 0) start();
    const size_t most = rounds_ ? 2 : 1;
    while (flying_.size() < most && left_ > int64_t(flying_.size())) submit(choose(left_ - int64_t(flying_.size())));
    Flight flight = std::move(flying_.front());
    flying_.pop_front();
    flight.tokens.wait(), flight.accepted.wait();
    if (flight.tokens.dtype() != mx::int32 || flight.tokens.shape() != mx::Shape{1, flight.drafts + 1} ||
        flight.accepted.dtype() != mx::int32 || flight.accepted.size() != 1)
      throw Error("a round does not tell its tokens");
    piece.drafted = flight.drafts, piece.accepted = *flight.accepted.data<int32_t>();
    if (piece.accepted < 0 || piece.accepted > piece.drafted) throw Error("a round accepts what it has not drafted");
    if (flight.logits) tell(*flight.logits, piece);
    learn(piece);
    for (int i = 0; i <= piece.accepted && piece.finish == GEMMA4_GOES_ON; ++i) {
      const int32_t token = flight.tokens.data<int32_t>()[i * flight.tokens.strides(1)];
      if (token < 0 || token >= bundle().vocabulary) throw Error("a round gives an id beyond the vocabulary");
      ids_.push_back(std::exchange(newest_, token));
      piece.tokens[piece.count++] = token;
      --left_;
      if (std::ranges::count(bundle().stops, token)) piece.finish = GEMMA4_STOPPED;
      else if (left_ == 0) piece.finish = GEMMA4_LENGTH;
    }
    piece.accepted = std::min(piece.accepted, piece.count);
  }

  void tell(const mx::array& logits, gemma4_piece& piece) {
    logits_ = mx::contiguous(mx::astype(logits, mx::float32));
    if (logits_.shape() != mx::Shape{1, piece.drafted + 1, bundle().vocabulary}) throw Error("these are no logits");
    logits_.eval();
    piece.logits = logits_.data<float>(), piece.logit_count = logits_.size();
  }

  // From how long it took from one round's reading to the next one's, unless the caller was away for long.
  void learn(const gemma4_piece& piece) {
    const double at = now(), took = at - std::exchange(read_at_, at);
    const bool is_known = took < at && away_ <= 0.25 * took;
    const Seconds known = is_known ? Seconds(took) : std::nullopt;
    if (drafts_.empty()) model_->learned.observe(piece.drafted, piece.accepted, known);
  }
};

template <class Value, class Action>
Value told(char* error, size_t size, Value failed, Action action) {
  std::string why = "the process is ending";
  const auto job = [&] {
    try {
      failed = action(), why.clear();
    } catch (const std::exception& what) {
      why = what.what();
    }
  };
  if (!Worker::only().leaving) Worker::only().run(job);
  if (!why.empty() && error && size) std::snprintf(error, size, "%s", why.substr(0, why.find('\n')).c_str());
  return failed;
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

void gemma4_want_logits(gemma4_model* model) {
  told(nullptr, 0, 0, [&] { return model->model->want_logits(), 0; });
}

void gemma4_close(gemma4_model* model) {
  told(nullptr, 0, 0, [&] { return mx::synchronize(), delete model, mx::clear_cache(), 0; });
}

gemma4_text* gemma4_new_text(gemma4_model* model, char* error, size_t size) {
  return told<gemma4_text*>(error, size, nullptr, [&] { return new gemma4_text{Text(model->model)}; });
}

void gemma4_free_text(gemma4_text* text) {
  told(nullptr, 0, 0, [&] { return mx::synchronize(), delete text, mx::clear_cache(), 0; });
}

int gemma4_begin(gemma4_text* text, const int32_t* ids, size_t count, const gemma4_request* request, char* error,
                 size_t size) {
  return told(error, size, -1, [&] { return text->text.begin({ids, ids + count}, *request), 0; });
}

int gemma4_next(gemma4_text* text, gemma4_piece* piece, char* error, size_t size) {
  return told(error, size, -1, [&] { return *piece = text->text.next(), 0; });
}

void gemma4_cancel(gemma4_text* text) { text->text.cancelled = true; }

gemma4_memory gemma4_memory_in_use() {
  return {mx::get_active_memory(), mx::get_cache_memory(), mx::get_peak_memory()};
}
