/// What a piece of the model's text is.
public enum Channel: String, Sendable, Codable {
  /// What it answers.
  case answer
  /// What it thinks before it answers.
  case thought
}

/// Text of one channel.
public struct ChannelText: Sendable, Equatable {
  public let text: String
  public let channel: Channel

  public init(_ text: String, _ channel: Channel) {
    self.text = text
    self.channel = channel
  }
}

/// The tokens of the model's turn to text, thoughts and answers told apart by ids: text that spells a marker is text.
///
/// A channel begins with a marker, and with its name up to a newline, which are no text. One of another name than
/// "thought" is answer, its name included. Special tokens have no text.
public struct ChannelParser: Sendable {
  private static let thought = "thought\n".utf8

  private let markers: Manifest.Markers
  private var decoder: StreamDecoder
  private var channel = Channel.answer
  private var name: String?  // as far as it has come, while it may be "thought"

  /// - Parameter prompt: what the turn begins with; it may have opened a thought.
  public init(_ manifest: Manifest, _ tokenizer: Tokenizer, behind prompt: [Int32] = []) {
    self.init(manifest.text.markers, stops: manifest.text.stops, tokenizer, behind: prompt)
  }

  init(_ markers: Manifest.Markers, stops: [Int32], _ tokenizer: Tokenizer, behind prompt: [Int32] = []) {
    self.markers = markers
    decoder = StreamDecoder(tokenizer)
    let ends = stops + [markers.open, markers.close].compactMap { $0 }
    guard let last = prompt.lastIndex(where: ends.contains), prompt[last] == markers.open else { return }
    for id in prompt[last...] { _ = add(id) }
  }

  /// The text that a token finishes, nothing of which is empty. A marker finishes what was held back before it.
  public mutating func add(_ id: Int32) -> [ChannelText] {
    guard id == markers.open || id == markers.close else { return take(decoder.add(id)) }
    let rest = finish()
    (channel, name) = id == markers.open ? (.thought, "") : (.answer, nil)
    return rest
  }

  /// The text that was held back, when no more tokens are to come.
  public mutating func finish() -> [ChannelText] {
    take(decoder.finish())
  }

  private mutating func take(_ text: String) -> [ChannelText] {
    guard let begun = name else { return piece(text) }
    let name = begun + text
    self.name = name
    if name.utf8.starts(with: Self.thought) {
      self.name = nil
      return piece(String(decoding: name.utf8.dropFirst(Self.thought.count), as: UTF8.self))
    }
    if Self.thought.starts(with: name.utf8) { return [] }
    (channel, self.name) = (.answer, nil)
    return piece(name)
  }

  private func piece(_ text: String) -> [ChannelText] {
    text.isEmpty ? [] : [ChannelText(text, channel)]
  }
}
