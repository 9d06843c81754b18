// Programs: what each operation takes and does, and straight lines of them.
#include <algorithm>
#include <unordered_map>

#include "bundle.h"

namespace gemma4 {

namespace {

// An integer, which may be linear in variables.
int integer(const Json& value, const Variables& variables, int least = INT32_MIN, int most = INT32_MAX) {
  if (!value.is<Json::Object>()) return static_cast<int>(value.whole("an integer", least, most));
  int64_t sum = 0;
  for (const auto& [name, factor] : value.as<Json::Object>("")) {
    const auto found = variables.find(name);
    if (found == variables.end()) throw Error(name + " is no variable");
    sum += factor.whole(name, -(1 << 30), 1 << 30) * found->second;
  }
  return static_cast<int>(Json{sum}.whole("an integer", least, most));
}

// The arguments of a step, for some values of its program's variables.
struct Arguments {
  const Json& given;
  const Variables& variables;

  int whole(std::string_view name, int least = INT32_MIN, int most = INT32_MAX) const {
    return integer(given.at(name), variables, least, most);
  }
  template <class List>
  List all(std::string_view name, int least = INT32_MIN, int most = INT32_MAX) const {
    List found;
    for (const auto& each : given.at<Json::List>(name)) found.push_back(integer(each, variables, least, most));
    return found;
  }
  std::vector<int> axes(std::string_view name) const { return all<std::vector<int>>(name); }
  mx::Shape shape(std::string_view name, int least = INT32_MIN, int most = INT32_MAX) const {
    return all<mx::Shape>(name, least, most);
  }
  mx::Shape sizes() const {  // of which one may be -1, what is left; MLX divides by the others
    mx::Shape found = shape("shape", -1);
    if (std::ranges::count(found, 0)) throw Error("an operation makes an empty array");
    return found;
  }
  std::optional<float> number(std::string_view name) const {
    const Json& found = given.at(name);
    if (found.is<std::nullptr_t>()) return std::nullopt;
    return found.is<int64_t>() ? float(found.as<int64_t>(name)) : float(found.as<double>(name));
  }
  bool flag(std::string_view name) const { return given.at<bool>(name); }
  mx::Dtype dtype() const { return dtype_of(given.at<std::string>("dtype")); }
  int group() const { return whole("group_size", 1, 1024); }  // MLX divides by these
  int bits() const { return whole("bits", 2, 8); }
  std::string mode() const { return given.at<std::string>("mode"); }
};

std::optional<mx::array> maybe(const Arrays& x, size_t place) {
  return place < x.size() ? std::optional(x[place]) : std::nullopt;
}

// MLX counts axes from the end, of quantized weights and where slices are written, without asking how many there are.
const mx::array& with_axes(const mx::array& x, size_t least, size_t most = 16) {
  if (x.ndim() < least || x.ndim() > most) throw Error("an operation takes an array of so many axes");
  return x;
}
const mx::array& matrix(const mx::array& x) { return with_axes(x, 2); }
const mx::array& scales_of(const mx::array& words, const mx::array& x) {
  return with_axes(x, words.ndim(), words.ndim());
}

mx::array attention(const Arrays& x, const Arguments& a) {
  const std::string mode = a.flag("causal") ? "causal" : x.size() > 3 ? "array" : "";
  return mx::fast::scaled_dot_product_attention(x[0], x[1], x[2], a.number("scale").value(), mode,
                                                a.flag("causal") ? std::nullopt : maybe(x, 3));
}

mx::array gather_mm(const Arrays& x, const Arguments& a) {
  if (mx::default_device() != mx::Device::cpu) return mx::gather_mm(x[0], x[1], std::nullopt, x[2], a.flag("sorted"));
  const auto wide = [](const mx::array& narrow) { return mx::astype(narrow, mx::float32); };  // it has no other there
  return mx::astype(mx::gather_mm(wide(x[0]), wide(x[1]), std::nullopt, x[2]), x[0].dtype());
}

// For each key by itself.
mx::array drawn(const mx::array& keys, const mx::Shape& made, mx::array (*draw)(const mx::Shape&, const mx::array&)) {
  mx::Shape shape(with_axes(keys, 1).shape().begin(), keys.shape().end() - 1);
  shape.insert(shape.end(), made.begin(), made.end());
  const auto each = mx::vmap([&](const mx::array& key) { return draw(made, key); });
  return mx::reshape(each(mx::reshape(keys, {-1, 2})), shape);
}
mx::array uniform(const mx::Shape& shape, const mx::array& key) { return mx::random::uniform(shape, mx::float32, key); }
mx::array gumbel(const mx::Shape& shape, const mx::array& key) { return mx::random::gumbel(shape, mx::float32, key); }

}  // namespace

struct Operation {
  size_t least, most;  // arrays that it takes,
  bool divides;        // by their sizes: they must not be empty
  Arrays (*run)(const Arrays& x, const Arguments& a);
};

namespace {

#define GIVEN [[maybe_unused]] const Arrays &x, [[maybe_unused]] const Arguments &a
#define ENTRY(name, least, most, divides, ...) {#name, {least, most, divides, [](GIVEN) -> Arrays __VA_ARGS__}}
#define DOES(name, least, most, ...) ENTRY(name, least, most, false, { return {__VA_ARGS__}; })
#define DIVIDES(name, least, most, ...) ENTRY(name, least, most, true, { return {__VA_ARGS__}; })
#define ONE(name) DOES(name, 1, 1, mx::name(x[0]))
#define TWO(name) DOES(name, 2, 2, mx::name(x[0], x[1]))
#define AXIS(name, ...) DOES(name, 1, 1, mx::name(x[0], a.whole("axis") __VA_OPT__(, ) __VA_ARGS__))
#define AXES(name, ...) DOES(name, 1, 1, mx::name(x[0], a.axes("axes") __VA_OPT__(, ) __VA_ARGS__))

const Operation& operation(const std::string& name) {
  static const auto& known = *new std::unordered_map<std::string, Operation>{
      ONE(abs), ONE(exp), ONE(floor), ONE(log), ONE(logical_not), ONE(negative), ONE(rsqrt), ONE(sigmoid), ONE(sqrt),
      ONE(square), ONE(tanh), TWO(add), TWO(bitwise_and), TWO(bitwise_or), TWO(bitwise_xor), TWO(divide), TWO(equal),
      TWO(floor_divide), TWO(greater), TWO(greater_equal), TWO(left_shift), TWO(less), TWO(less_equal),
      TWO(logical_and), TWO(logical_or), TWO(maximum), TWO(minimum), TWO(multiply), TWO(not_equal),
      TWO(power), TWO(remainder), TWO(right_shift), TWO(subtract), AXIS(argsort), AXIS(sort), AXIS(cumsum),
      AXIS(cumprod), AXIS(argmax, true), AXIS(argmin, true), AXES(all, true), AXES(any, true), AXES(max, true),
      AXES(min, true), AXES(prod, true), AXES(sum, true), AXES(expand_dims), AXES(squeeze), AXES(transpose),
      DIVIDES(matmul, 2, 2, mx::matmul(x[0], x[1])),
      DOES(where, 3, 3, mx::where(x[0], x[1], x[2])),
      DOES(arange, 0, 0, mx::arange(a.whole("start"), a.whole("stop"), a.whole("step", 1), a.dtype())),
      DOES(scalar, 0, 0, mx::array(a.whole("value"), a.dtype())),
      DIVIDES(argpartition, 1, 1, mx::argpartition(x[0], a.whole("kth"), a.whole("axis"))),
      DOES(astype, 1, 1, mx::astype(x[0], a.dtype())),
      DOES(view, 1, 1, mx::view(x[0], a.dtype())),
      DOES(broadcast_to, 1, 1, mx::broadcast_to(x[0], a.shape("shape", 0))),
      DIVIDES(reshape, 1, 1, mx::reshape(x[0], a.sizes())),
      DOES(concatenate, 1, 64, mx::concatenate(x, a.whole("axis"))),
      DOES(flatten, 1, 1, mx::flatten(x[0], a.whole("start"), a.whole("end"))),
      DIVIDES(unflatten, 1, 1, mx::unflatten(x[0], a.whole("axis"), a.sizes())),
      DIVIDES(gather, 2, 2, mx::gather(x[0], {x[1]}, a.axes("axes"), a.shape("sizes"))),
      DOES(take_along_axis, 2, 2, mx::take_along_axis(x[0], x[1], a.whole("axis"))),
      DOES(put_along_axis, 3, 3, mx::put_along_axis(x[0], x[1], x[2], a.whole("axis"))),
      DOES(slice, 1, 1, mx::slice(x[0], a.shape("start"), a.shape("stop"), a.shape("step", 1, 1 << 16))),
      DOES(slice_update, 3, 3, mx::slice_update(x[0], with_axes(x[1], 0, x[0].ndim()), x[2], a.axes("axes"))),
      ENTRY(split, 1, 1, false, { return mx::split(x[0], a.shape("places"), a.whole("axis")); }),
      DOES(softmax, 1, 1, mx::softmax(x[0], -1, a.flag("precise"))),
      DOES(logsumexp, 1, 1, mx::logsumexp(x[0], -1, true)),
      DIVIDES(rms_norm, 1, 2, mx::fast::rms_norm(x[0], maybe(x, 1), a.number("eps").value())),
      DIVIDES(rope, 2, 3,
              mx::fast::rope(x[0], a.whole("dims"), false, a.number("base"), a.number("scale").value(), x[1],
                             maybe(x, 2))),
      DIVIDES(attention, 3, 4, attention(x, a)),
      DIVIDES(dequantize, 2, 3,
              mx::dequantize(matrix(x[0]), scales_of(x[0], x[1]), maybe(x, 2), a.group(), a.bits(), a.mode())),
      DIVIDES(quantized_matmul, 3, 4,
              mx::quantized_matmul(x[0], matrix(x[1]), scales_of(x[1], x[2]), maybe(x, 3), a.flag("transpose"),
                                   a.group(), a.bits(), a.mode())),
      DIVIDES(gather_mm, 3, 3, gather_mm(x, a)),
      DIVIDES(gather_qmm, 4, 5,
              mx::gather_qmm(matrix(x[0]), matrix(x[1]), scales_of(x[1], x[2]), maybe(x, 4), std::nullopt, x[3],
                             a.flag("transpose"), a.group(), a.bits(), a.mode(), std::nullopt, a.flag("sorted"))),
      DOES(uniform, 1, 1, drawn(x[0], {}, uniform)),
      DOES(gumbel, 1, 1, drawn(x[0], {a.whole("count")}, gumbel)),
  };
  if (const auto found = known.find(name); found != known.end()) return found->second;
  throw Error("an operation is not known here");
}

}  // namespace

mx::Dtype dtype_of(const std::string& name) {
  static const std::map<std::string, mx::Dtype> known{
      {"bool", mx::bool_}, {"uint8", mx::uint8}, {"uint16", mx::uint16}, {"uint32", mx::uint32}, {"int32", mx::int32},
      {"int64", mx::int64}, {"float16", mx::float16}, {"bfloat16", mx::bfloat16}, {"float32", mx::float32}};
  if (const auto found = known.find(name); found != known.end()) return found->second;
  throw Error(name.substr(0, 100) + " is no type of numbers");
}

Program::Program(const Json& content, size_t weights, size_t constants, Fixed& fixed)
    : name(content.at<std::string>("name")) {
  if (content.at<std::string>("format") != "mlx_gemma4_assist program") throw Error("it is no program of a bundle");
  content.at("version").whole("the format's version", 1, 1);
  if (size_t(content.at("weights").whole("weights")) != weights ||
      size_t(content.at("constants").whole("constants")) != constants)
    throw Error("it belongs to another bundle");
  std::vector<ptrdiff_t> places;  // of arrays by their numbers
  ptrdiff_t own = 0;
  for (size_t i = 0; i < weights + constants; ++i) places.push_back(~static_cast<ptrdiff_t>(i));
  for (const auto& each : content.at<Json::List>("inputs")) {
    inputs.push_back({each.at(0).as<std::string>("an input's name"), dtype_of(each.at(1).as<std::string>("a type")),
                      each.at(2).as<Json::List>("a shape")});
    places.push_back(own++);
  }
  for (const auto& each : content.at<Json::List>("operations")) {
    const Operation& known = operation(each.at<std::string>("operation"));
    uses.push_back({&known, static_cast<size_t>(each.at("inputs").whole("inputs", known.least, known.most)),
                    static_cast<size_t>(each.at("outputs").whole("outputs", 1, 16)), each});
  }
  const auto place_of = [&](const Json& number, std::string_view what) {
    return places[number.whole(what, 0, static_cast<int64_t>(places.size()) - 1)];
  };
  const auto& flat = content.at<Json::List>("steps");
  for (size_t at = 0; at < flat.size();) {
    Step step{static_cast<size_t>(flat[at++].whole("a step", 0, static_cast<int64_t>(uses.size()) - 1)), {}};
    const Use& use = uses[step.use];
    if (flat.size() - at < use.inputs) throw Error("its last step is cut off");
    for (const size_t end = at + use.inputs; at < end; ++at) step.taken.push_back(place_of(flat[at], "a step"));
    if (use.operation == &operation("transpose") && step.taken[0] < 0 && use.outputs == 1) {
      places.push_back(~ptrdiff_t(fixed.transposed(~step.taken[0], Arguments{use.arguments, {}}.axes("axes"))));
      continue;
    }
    for (const ptrdiff_t each : step.taken) if (each < 0) fixed.taken.insert(~each);
    for (size_t i = 0; i < use.outputs; ++i) places.push_back(own++);
    steps.push_back(std::move(step));
  }
  for (const auto& each : content.at<Json::List>("outputs")) {
    outputs.emplace_back(each.at(0).as<std::string>("an output's name"), place_of(each.at(1), "an output"));
    if (outputs.back().second < 0) fixed.taken.insert(~outputs.back().second);
  }
}

Arrays Program::run(const Arrays& fixed, const Arrays& given, const Variables& variables, bool logits) const try {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto& [name, dtype, shape] = inputs[i];
    bool fits = given[i].dtype() == dtype && given[i].ndim() == shape.size();
    for (int axis = 0; fits && axis < static_cast<int>(shape.size()); ++axis)
      fits = shape[axis].is<std::nullptr_t>() || integer(shape[axis], variables) == given[i].shape(axis);
    if (!fits) throw Error("it takes another " + name);
  }
  Arrays own = given;
  const auto at = [&](ptrdiff_t place) { return place < 0 ? fixed[~place] : own[place]; };
  for (const auto& [use, numbers] : steps) {
    Arrays taken;
    for (const ptrdiff_t each : numbers) {
      taken.push_back(at(each));
      if (uses[use].operation->divides && !taken.back().size()) throw Error("an operation takes an empty array");
    }
    Arrays made = uses[use].operation->run(taken, {uses[use].arguments, variables});
    if (made.size() != uses[use].outputs) throw Error("an operation has other outputs");
    own.insert(own.end(), made.begin(), made.end());
  }
  Arrays found;
  for (const auto& [name, place] : outputs) if (logits || name != "logits") found.push_back(at(place));
  return found;
} catch (const std::exception& error) {
  throw Error("the program " + name + " cannot be run: " + error.what());
}

}  // namespace gemma4
