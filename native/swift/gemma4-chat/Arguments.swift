import Gemma4

/// What the command was called with.
struct Arguments: Equatable {
  static let help = """
    usage: gemma4-chat BUNDLE [OPTION ...]

    Chats with a bundle that export has written: a folder, or an http(s) address, which is downloaded once.

      --drafts HOW       learned (the default), a number for all rounds, or several, such as 0,3,2
      --temperature T    0 takes the likeliest tokens; as the model's makers ask for it unless given
      --seed N           the same answers each time
      --max-tokens N     of an answer, 1024 unless given
      --system TEXT      what the model is told before the first message
      --thinking         lets it think before it answers; thoughts are dim, or go to standard error
      --show-drafts      colours what the assistant has drafted
      --folder FOLDER    where downloads are kept

    /reset forgets what was said, /quit ends, Ctrl-C ends an answer. What is not typed at a terminal is answered line by line.
    """

  var bundle = ""
  var options = GenerationOptions()
  var system: String?
  var showsDrafts = false
  var folder: String?
  var wantsHelp = false

  /// - Throws: ``Gemma4Error`` about the first word that will not do.
  init(_ words: some Sequence<String>) throws {
    var words = words.makeIterator()
    while let word = words.next() {
      switch word {
      case "--help", "-h": wantsHelp = true
      case "--thinking": options.thinking = true
      case "--show-drafts": showsDrafts = true
      case "--drafts": options.drafts = try Self.drafts(Self.value(of: word, &words))
      case "--temperature": options.temperature = try Self.number(word, &words)
      case "--seed": options.seed = try Self.number(word, &words)
      case "--max-tokens": options.maxTokens = try Self.number(word, &words)
      case "--system": system = try Self.value(of: word, &words)
      case "--folder": folder = try Self.value(of: word, &words)
      default:
        guard bundle.isEmpty, !word.hasPrefix("-") else { throw Gemma4Error("what is \(word)? --help tells what there is") }
        bundle = word
      }
    }
    if bundle.isEmpty, !wantsHelp { throw Gemma4Error("name a bundle: gemma4-chat BUNDLE; --help tells more") }
  }

  private static func value(of option: String, _ words: inout some IteratorProtocol<String>) throws -> String {
    guard let value = words.next() else { throw Gemma4Error("\(option) wants a value") }
    return value
  }

  private static func number<Number: LosslessStringConvertible>(
    _ option: String, _ words: inout some IteratorProtocol<String>
  ) throws -> Number {
    let value = try value(of: option, &words)
    guard let number = Number(value) else { throw Gemma4Error("\(option) is \(value), expected a number") }
    return number
  }

  private static func drafts(_ value: String) throws -> GenerationOptions.Drafts {
    if value == "learned" { return .learned }
    let numbers = value.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
    guard !numbers.contains(nil) else {
      throw Gemma4Error("--drafts is \(value), expected learned, a number, or numbers with commas")
    }
    return numbers.count == 1 ? .fixed(numbers[0]!) : .pattern(numbers.compactMap { $0 })
  }
}
