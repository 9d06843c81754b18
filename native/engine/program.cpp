// Programs: what each operation takes and does, and straight lines of them.
#include <algorithm>
#include <unordered_map>

#include "bundle.h"

namespace gemma4 {

// The arguments of a step, for some values of its program's variables.
struct Arguments {
  const Json::Object& given;
  const Variables& values;

  static int at(const Json& linear, const Variables& values) {
    if (linear.is<int64_t>()) return static_cast<int>(linear.whole("an integer", INT32_MIN));
    int64_t sum = linear.at<int64_t>("constant");
    for (const auto& [name, value] : values)
      if (auto found = linear.as<Json::Object>("").find(name); found != linear.as<Json::Object>("").end())
        sum += found->second.as<int64_t>(name) * value;
    return static_cast<int>(Json{sum}.whole("an integer", INT32_MIN));
  }
  const Json& operator[](std::string_view name) const { return given.find(name)->second; }
  int integer(std::string_view name) const { return at((*this)[name], values); }
  template <class List = std::vector<int>>
  List integers(std::string_view name) const {
    List found;
    for (const auto& each : (*this)[name].as<Json::List>(name)) found.push_back(at(each, values));
    return found;
  }
  std::optional<float> number(std::string_view name) const {
    const Json& found = (*this)[name];
    if (found.is<std::nullptr_t>()) return std::nullopt;
    return found.is<int64_t>() ? static_cast<float>(found.as<int64_t>(name)) : static_cast<float>(found.as<double>(name));
  }
  bool flag(std::string_view name) const { return (*this)[name].as<bool>(name); }
  const std::string& word(std::string_view name) const { return (*this)[name].as<std::string>(name); }
  mx::Dtype dtype() const { return dtype_of(word("dtype")); }
};

struct Operation {
  size_t least, most;  // arrays that it takes
  std::vector<std::pair<std::string_view, char>> arguments;  // i(nteger), I(ntegers), s(tep), S(teps), b(its), g(roup), n(umber), f(lag), t(ype), w(ord)
  Arrays (*run)(const Arrays& x, const Arguments& a);
};

namespace {

#define DOES []([[maybe_unused]] const Arrays& x, [[maybe_unused]] const Arguments& a) -> Arrays
#define ONE(name) {#name, {1, 1, {}, DOES { return {mx::name(x[0])}; }}}
#define TWO(name) {#name, {2, 2, {}, DOES { return {mx::name(x[0], x[1])}; }}}
#define OVER_AXIS(name) {#name, {1, 1, {{"axis", 'i'}}, DOES { return {mx::name(x[0], a.integer("axis"))}; }}}
#define OVER_KEPT(name) {#name, {1, 1, {{"axis", 'i'}}, DOES { return {mx::name(x[0], a.integer("axis"), true)}; }}}
#define OVER_AXES(name) {#name, {1, 1, {{"axes", 'I'}}, DOES { return {mx::name(x[0], a.integers("axes"), true)}; }}}
#define WITH_AXES(name) {#name, {1, 1, {{"axes", 'I'}}, DOES { return {mx::name(x[0], a.integers("axes"))}; }}}
#define PACKED {"group_size", 'g'}, {"bits", 'b'}, {"mode", 'w'}

std::optional<mx::array> maybe(const Arrays& x, size_t place) {
  return place < x.size() ? std::optional(x[place]) : std::nullopt;
}

// For each key by itself.
mx::array for_keys(const mx::array& keys, mx::Shape made, const std::function<mx::array(const mx::array&)>& draw) {
  mx::Shape shape(keys.shape().begin(), keys.shape().end() - 1);
  shape.insert(shape.end(), made.begin(), made.end());
  return mx::reshape(mx::vmap(draw)(mx::reshape(keys, {-1, 2})), shape);
}

Arrays gather_mm(const Arrays& x, const Arguments& a) {
  if (mx::default_device() == mx::Device::cpu && x[0].dtype() != mx::float32) {  // it has no other there
    const auto wide = mx::gather_mm(mx::astype(x[0], mx::float32), mx::astype(x[1], mx::float32), std::nullopt, x[2]);
    return {mx::astype(wide, x[0].dtype())};
  }
  return {mx::gather_mm(x[0], x[1], std::nullopt, x[2], a.flag("sorted"))};
}

const std::unordered_map<std::string_view, Operation>& operations() {
  static const auto& known = *new std::unordered_map<std::string_view, Operation>{
      ONE(abs), ONE(exp), ONE(floor), ONE(log), ONE(logical_not), ONE(negative), ONE(rsqrt), ONE(sigmoid), ONE(sqrt),
      ONE(square), ONE(tanh), TWO(add), TWO(bitwise_and), TWO(bitwise_or), TWO(bitwise_xor), TWO(divide), TWO(equal),
      TWO(floor_divide), TWO(greater), TWO(greater_equal), TWO(left_shift), TWO(less), TWO(less_equal),
      TWO(logical_and), TWO(logical_or), TWO(matmul), TWO(maximum), TWO(minimum), TWO(multiply), TWO(not_equal),
      TWO(power), TWO(remainder), TWO(right_shift), TWO(subtract), OVER_AXIS(argsort), OVER_AXIS(sort),
      OVER_AXIS(cumsum), OVER_AXIS(cumprod), OVER_KEPT(argmax), OVER_KEPT(argmin), OVER_AXES(all), OVER_AXES(any),
      OVER_AXES(max), OVER_AXES(min), OVER_AXES(prod), OVER_AXES(sum), WITH_AXES(expand_dims), WITH_AXES(squeeze),
      WITH_AXES(transpose),
      {"where", {3, 3, {}, DOES { return {mx::where(x[0], x[1], x[2])}; }}},
      {"arange", {0, 0, {{"start", 'i'}, {"stop", 'i'}, {"step", 's'}, {"dtype", 't'}}, DOES {
         return {mx::arange(a.integer("start"), a.integer("stop"), a.integer("step"), a.dtype())}; }}},
      {"scalar", {0, 0, {{"value", 'i'}, {"dtype", 't'}}, DOES { return {mx::array(a.integer("value"), a.dtype())}; }}},
      {"argpartition", {1, 1, {{"kth", 'i'}, {"axis", 'i'}}, DOES {
         return {mx::argpartition(x[0], a.integer("kth"), a.integer("axis"))}; }}},
      {"astype", {1, 1, {{"dtype", 't'}}, DOES { return {mx::astype(x[0], a.dtype())}; }}},
      {"view", {1, 1, {{"dtype", 't'}}, DOES { return {mx::view(x[0], a.dtype())}; }}},
      {"broadcast_to", {1, 1, {{"shape", 'I'}}, DOES {
         return {mx::broadcast_to(x[0], a.integers<mx::Shape>("shape"))}; }}},
      {"reshape", {1, 1, {{"shape", 'I'}}, DOES { return {mx::reshape(x[0], a.integers<mx::Shape>("shape"))}; }}},
      {"concatenate", {1, 64, {{"axis", 'i'}}, DOES { return {mx::concatenate(x, a.integer("axis"))}; }}},
      {"flatten", {1, 1, {{"start", 'i'}, {"end", 'i'}}, DOES {
         return {mx::flatten(x[0], a.integer("start"), a.integer("end"))}; }}},
      {"unflatten", {1, 1, {{"axis", 'i'}, {"shape", 'I'}}, DOES {
         return {mx::unflatten(x[0], a.integer("axis"), a.integers<mx::Shape>("shape"))}; }}},
      {"gather", {2, 2, {{"axes", 'I'}, {"sizes", 'I'}}, DOES {
         return {mx::gather(x[0], {x[1]}, a.integers("axes"), a.integers<mx::Shape>("sizes"))}; }}},
      {"take_along_axis", {2, 2, {{"axis", 'i'}}, DOES { return {mx::take_along_axis(x[0], x[1], a.integer("axis"))}; }}},
      {"put_along_axis", {3, 3, {{"axis", 'i'}}, DOES {
         return {mx::put_along_axis(x[0], x[1], x[2], a.integer("axis"))}; }}},
      {"slice", {1, 1, {{"start", 'I'}, {"stop", 'I'}, {"step", 'S'}}, DOES {
         return {mx::slice(x[0], a.integers<mx::Shape>("start"), a.integers<mx::Shape>("stop"),
                           a.integers<mx::Shape>("step"))}; }}},
      {"slice_update", {3, 3, {{"axes", 'I'}}, DOES { return {mx::slice_update(x[0], x[1], x[2], a.integers("axes"))}; }}},
      {"split", {1, 1, {{"places", 'I'}, {"axis", 'i'}}, DOES {
         return mx::split(x[0], a.integers<mx::Shape>("places"), a.integer("axis")); }}},
      {"softmax", {1, 1, {{"precise", 'f'}}, DOES { return {mx::softmax(x[0], -1, a.flag("precise"))}; }}},
      {"logsumexp", {1, 1, {}, DOES { return {mx::logsumexp(x[0], -1, true)}; }}},
      {"rms_norm", {1, 2, {{"eps", 'n'}}, DOES {
         return {mx::fast::rms_norm(x[0], maybe(x, 1), a.number("eps").value())}; }}},
      {"rope", {2, 3, {{"dims", 'i'}, {"base", 'n'}, {"scale", 'n'}}, DOES {
         return {mx::fast::rope(x[0], a.integer("dims"), false, a.number("base"), a.number("scale").value(), x[1],
                                maybe(x, 2))}; }}},
      {"attention", {3, 4, {{"scale", 'n'}, {"causal", 'f'}}, DOES {
         const std::string mode = a.flag("causal") ? "causal" : x.size() > 3 ? "array" : "";
         return {mx::fast::scaled_dot_product_attention(x[0], x[1], x[2], a.number("scale").value(), mode,
                                                        a.flag("causal") ? std::nullopt : maybe(x, 3))}; }}},
      {"dequantize", {2, 3, {PACKED}, DOES {
         return {mx::dequantize(x[0], x[1], maybe(x, 2), a.integer("group_size"), a.integer("bits"), a.word("mode"))}; }}},
      {"quantized_matmul", {3, 4, {PACKED, {"transpose", 'f'}}, DOES {
         return {mx::quantized_matmul(x[0], x[1], x[2], maybe(x, 3), a.flag("transpose"), a.integer("group_size"),
                                      a.integer("bits"), a.word("mode"))}; }}},
      {"gather_qmm", {4, 5, {PACKED, {"transpose", 'f'}, {"sorted", 'f'}}, DOES {
         return {mx::gather_qmm(x[0], x[1], x[2], maybe(x, 4), std::nullopt, x[3], a.flag("transpose"),
                                a.integer("group_size"), a.integer("bits"), a.word("mode"), std::nullopt,
                                a.flag("sorted"))}; }}},
      {"gather_mm", {3, 3, {{"sorted", 'f'}}, gather_mm}},
      {"uniform", {1, 1, {}, DOES {
         return {for_keys(x[0], {}, [](const auto& key) { return mx::random::uniform(mx::Shape{}, mx::float32, key); })}; }}},
      {"gumbel", {1, 1, {{"count", 'i'}}, DOES {
         const int count = a.integer("count");
         return {for_keys(x[0], {count}, [count](const auto& key) { return mx::random::gumbel({count}, mx::float32, key); })}; }}},
  };
  return known;
}

// An integer, which may be linear in variables.
void check_linear(const Json& value, const std::vector<std::string>& variables) {
  if (!value.is<Json::Object>()) return void(value.whole("an integer", INT32_MIN));
  const auto& entries = value.as<Json::Object>("");
  value.at("constant");
  size_t known = 1;
  for (const auto& each : variables) known += entries.contains(each);
  if (entries.size() > known) throw Error("an integer depends on what is no variable");
  for (const auto& [name, factor] : entries) factor.whole(name, -(1 << 30), 1 << 30);
}

void check_argument(char kind, const Json& value, const std::vector<std::string>& variables) {
  if (kind == 'i') check_linear(value, variables);
  if (kind == 's') value.whole("a step", 1);
  if (kind == 'S') for (const auto& each : value.as<Json::List>("steps")) each.whole("a step", 1);
  if (kind == 'b') value.whole("bits", 2, 8);  // MLX divides by these
  if (kind == 'g') value.whole("a group's size", 1, 1024);
  if (kind == 'I') for (const auto& each : value.as<Json::List>("a list")) check_linear(each, variables);
  if (kind == 'n' && !value.is<std::nullptr_t>() && !value.is<int64_t>()) value.as<double>("a number");
  if (kind == 'f') value.as<bool>("a flag");
  if (kind == 'w') value.as<std::string>("a word");
  if (kind == 't') dtype_of(value.as<std::string>("a type"));
}

// Adds an argument to a name; false if it depends on variables.
bool spelled(const Json& value, std::string& name) {
  if (value.is<Json::Object>()) return false;
  if (value.is<int64_t>()) name += std::to_string(value.as<int64_t>("")) + " ";
  if (value.is<double>()) name += std::to_string(value.as<double>("")) + " ";
  if (value.is<bool>()) name += value.as<bool>("") ? "true " : "false ";
  if (value.is<std::string>()) name += value.as<std::string>("") + " ";
  if (value.is<Json::List>()) for (const auto& each : value.as<Json::List>("")) if (!spelled(each, name)) return false;
  return true;
}

}  // namespace

mx::Dtype dtype_of(std::string_view name) {
  static const std::pair<std::string_view, mx::Dtype> known[] = {
      {"bool", mx::bool_}, {"uint8", mx::uint8}, {"uint16", mx::uint16}, {"uint32", mx::uint32}, {"int32", mx::int32},
      {"int64", mx::int64}, {"float16", mx::float16}, {"bfloat16", mx::bfloat16}, {"float32", mx::float32}};
  for (const auto& [own, dtype] : known) if (own == name) return dtype;
  throw Error(std::string(name.substr(0, 100)) + " is no type of numbers");
}

Program::Program(const Json& content, size_t weights, size_t constants) : name(content.at<std::string>("name")) {
  if (content.at<std::string>("format") != "mlx_gemma4_assist program") throw Error("it is no program of a bundle");
  content.at("version").whole("the format's version", 1, 1);
  if (content.at("weights").whole("weights") != static_cast<int64_t>(weights) ||
      content.at("constants").whole("constants") != static_cast<int64_t>(constants))
    throw Error("it belongs to another bundle");
  for (const auto& each : content.at<Json::List>("variables")) variables.push_back(each.as<std::string>("a variable"));
  for (const auto& each : content.at<Json::List>("inputs")) {
    const auto& parts = each.as<Json::List>("an input");
    if (parts.size() != 3) throw Error("an input has not three parts");
    inputs.push_back({parts[0].as<std::string>("an input's name"), dtype_of(parts[1].as<std::string>("a type")),
                      parts[2].as<Json::List>("a shape")});
    for (const auto& size : inputs.back().shape) if (!size.is<std::nullptr_t>()) check_linear(size, variables);
  }
  for (const auto& each : content.at<Json::List>("operations")) {
    const auto found = operations().find(each.at<std::string>("operation"));
    if (found == operations().end()) throw Error("an operation is not known here");
    const Operation& known = found->second;
    const size_t taken = each.at("inputs").whole("inputs", known.least, known.most);
    uses.push_back({&known, taken, static_cast<size_t>(each.at("outputs").whole("outputs", 1, 16)),
                    each.as<Json::Object>("an operation")});
    if (uses.back().arguments.size() != known.arguments.size() + 3) throw Error("an operation has other arguments");
    for (const auto& [argument, kind] : known.arguments) check_argument(kind, each.at(argument), variables);
  }
  size_t end = weights + constants + inputs.size(), left = 0;  // left: arrays that the step still takes
  for (const auto& each : content.at<Json::List>("steps")) {
    const size_t number = each.whole("a step", 0, static_cast<int64_t>(left ? end : uses.size()) - 1);
    if (left) --left, steps.back().taken.push_back(number);
    else left = uses[number].inputs, steps.push_back({&uses[number], {}});
    if (!left) end += steps.back().use->outputs;
  }
  if (left) throw Error("its last step is cut off");
  for (const auto& each : content.at<Json::List>("outputs")) {
    const auto& parts = each.as<Json::List>("an output");
    if (parts.size() != 2) throw Error("an output has not two parts");
    outputs.emplace_back(parts[0].as<std::string>("an output's name"), parts[1].whole("an output", 0, end - 1));
  }
}

Arrays Program::Use::made(const Arrays& taken, const Variables& values) const {
  static constexpr std::string_view kDivide[] = {"reshape", "unflatten", "matmul", "gather", "gather_mm", "gather_qmm",
                                                 "rms_norm", "rope", "attention", "dequantize", "quantized_matmul",
                                                 "argpartition"};  // by sizes
  const bool divides = std::ranges::find(kDivide, arguments.find("operation")->second.as<std::string>("")) != std::end(kDivide);
  for (const auto& each : taken) if (divides && !each.size()) throw Error("an operation takes an empty array");
  return operation->run(taken, {arguments, values});
}

void Program::fold(const Arrays& fixed, Folded& folded, std::vector<bool>& needed) {
  static constexpr std::string_view kViews[] = {"transpose", "reshape", "flatten", "unflatten", "expand_dims", "squeeze"};
  static constexpr std::string_view kLookUp[] = {"gather", "take_along_axis", "put_along_axis", "slice_update", "gather_mm",
                                                 "gather_qmm"};  // nobody has checked what by
  constexpr size_t kSmall = 4096;  // bytes
  std::vector<std::string> names(fixed.size());  // of what is made of fixed arrays alone; empty: it is not
  for (size_t i = 0; i < fixed.size(); ++i) names[i] = std::to_string(i);
  names.resize(fixed.size() + inputs.size());
  std::map<size_t, mx::array> made;
  for (auto& step : steps) {
    std::string name = step.use->arguments.find("operation")->second.as<std::string>("");
    const bool is_view = std::ranges::find(kViews, name) != std::end(kViews);
    bool alone = step.use->outputs == 1 && std::ranges::find(kLookUp, name) == std::end(kLookUp);
    for (const size_t each : step.taken) alone = alone && !names[each].empty(), name += " " + names[each];
    for (const auto& [argument, value] : step.use->arguments) alone = alone && spelled(value, name += " " + argument + " ");
    Arrays taken;
    for (const size_t each : step.taken)
      if (alone) taken.push_back(each < fixed.size() ? fixed[each] : made.at(each));
    std::optional<mx::array> found;
    if (alone) found = attempt([&] { return step.use->made(taken, {}); }).at(0);
    if (alone && (is_view || found->nbytes() <= kSmall)) {
      auto [place, is_new] = folded.places.try_emplace(name, folded.arrays.size());
      if (is_new) folded.arrays.push_back(mx::default_device() == mx::Device::cpu ? mx::contiguous(*found) : *found);
      step.folded = static_cast<ptrdiff_t>(place->second);
      made.insert_or_assign(names.size(), folded.arrays[place->second]);
    } else {
      name.clear();
      for (const size_t each : step.taken) if (each < needed.size()) needed[each] = true;
    }
    names.push_back(name);
    names.resize(names.size() + step.use->outputs - 1);
  }
  for (const auto& each : outputs) if (each.second < needed.size()) needed[each.second] = true;
}

Arrays Program::run(const Arrays& fixed, const Folded& folded, const Arrays& given, const Variables& values) const {
  Arrays own = given;
  const auto at = [&](size_t number) { return number < fixed.size() ? fixed[number] : own[number - fixed.size()]; };
  for (size_t i = 0; i < inputs.size(); ++i) {
    bool fits = given[i].dtype() == inputs[i].dtype && given[i].ndim() == inputs[i].shape.size();
    for (size_t axis = 0; fits && axis < given[i].ndim(); ++axis)
      fits = inputs[i].shape[axis].is<std::nullptr_t>() ||
             Arguments::at(inputs[i].shape[axis], values) == given[i].shape(static_cast<int>(axis));
    if (!fits) throw Error("the program " + name + " takes another " + inputs[i].name);
  }
  for (const auto& step : steps) {
    if (step.folded >= 0) {
      own.push_back(folded.arrays[step.folded]);
      continue;
    }
    Arrays taken;
    for (const size_t each : step.taken) taken.push_back(at(each));
    Arrays made = attempt([&] { return step.use->made(taken, values); });
    if (made.size() != step.use->outputs) throw Error("the program " + name + " has an operation of other outputs");
    own.insert(own.end(), made.begin(), made.end());
  }
  Arrays found;
  for (const auto& each : outputs) found.push_back(at(each.second));
  return found;
}

template <class Action>
Arrays Program::attempt(Action action) const {
  try {
    return action();
  } catch (const std::exception& error) {
    const std::string_view why = error.what();
    throw Error("the program " + name + " cannot be run: " + std::string(why.substr(0, why.find('\n'))));
  }
}

}  // namespace gemma4
