/// Messages to the token ids that the checkpoint's chat template makes of them, up to where the model writes on.
///
/// Whatever messages spell, no control tokens come of it: text is taken apart within all that spells one, and its parts
/// are encoded one by one, as the Python package does it.
public struct ChatFormat: Sendable {
  private let form: ChatForm
  private let tokenizer: Tokenizer
  private let control: TokenizerTrie

  /// - Throws: ``Gemma4Error`` if the model has no chat format.
  public init(_ manifest: Manifest, _ tokenizer: Tokenizer) throws {
    guard let form = manifest.text.chat else { throw Gemma4Error("\(manifest.name) has no chat format") }
    self.init(form, tokenizer)
  }

  init(_ form: ChatForm, _ tokenizer: Tokenizer) {
    self.form = form
    self.tokenizer = tokenizer
    var control = TokenizerTrie()
    for spelling in tokenizer.specialTokens { control.add(spelling.utf8, as: 0) }
    for spelling in form.control { control.add(spelling.utf8, as: 0) }
    self.control = control
  }

  /// The token ids of a conversation, the one that begins texts included.
  ///
  /// Thoughts in the model's earlier messages are left out, as the template does.
  ///
  /// - Parameters:
  ///   - messages: at least one.
  ///   - thinking: whether the model is asked to think before it answers.
  /// - Throws: ``Gemma4Error`` for no messages, or system messages or thoughts that the model's template does not know.
  public func ids(_ messages: [Message], thinking: Bool = false) throws -> [Int32] {
    guard !messages.isEmpty else { throw Gemma4Error("a conversation needs a message") }
    var (written, rest, prompt) = (SealedText(control), messages[...], form.prompt)
    written.write(form.begin)
    if thinking {
      guard let asked = form.thinking else { throw Gemma4Error("the model's chat format knows no thoughts") }
      let lead = rest[0].role == .system ? rest.removeFirst() : Message(.system, "")
      try write(lead, asking: asked.ask, to: &written)
      prompt = asked.prompt
    }
    for place in rest.indices {
      let (joins, goesOn) = neighbours(of: place, in: rest)
      try write(rest[place], joins: joins, goesOn: goesOn, to: &written)
    }
    written.write(prompt)
    return written.parts.flatMap { part in
      part.withUnsafeBufferPointer { tokenizer.encode($0, specialTokens: true) }
    }
  }

  /// Whether a message goes on with the turn of the one before it, and the next one with its.
  private func neighbours(of place: Int, in messages: ArraySlice<Message>) -> (Bool, Bool) {
    func isModels(_ place: Int) -> Bool { messages.indices.contains(place) && messages[place].role == .model }
    guard form.joined, isModels(place) else { return (false, false) }
    return (isModels(place - 1), isModels(place + 1))
  }

  /// - Parameter asking: what stands before the message in its turn.
  private func write(
    _ message: Message, asking: String = "", joins: Bool = false, goesOn: Bool = false, to written: inout SealedText
  ) throws {
    let turn = try turn(of: message.role)
    written.write(joins ? "" : turn.open + asking)
    written.seal(said(message))
    written.write(goesOn ? "" : turn.close)
  }

  private func turn(of role: Message.Role) throws -> ChatForm.Turn {
    switch role {
    case .user: return form.user
    case .model: return form.model
    case .system:
      guard let system = form.system else { throw Gemma4Error("the model's chat format knows no system messages") }
      return system
    }
  }

  /// What is kept of a message's text.
  private func said(_ message: Message) -> ArraySlice<UInt8> {
    var text = Array(message.content.utf8)[...]
    if message.role == .model, let thoughts = form.thoughts { text = without(thoughts, text)[...] }
    return form.trimmed ? trimmed(text) : text
  }

  /// Text without thoughts, and without the marks that close some.
  private func without(_ thoughts: ChatForm.Turn, _ text: ArraySlice<UInt8>) -> [UInt8] {
    var marks = TokenizerTrie()
    marks.add(thoughts.open.utf8, as: 0)
    marks.add(thoughts.close.utf8, as: 1)
    var kept: [UInt8] = []
    var isInside = false
    text.withUnsafeBufferPointer {
      marks.split($0, leavingOut: { _ in false }, token: { isInside = $0 == 0 }) { if !isInside { kept += $0 } }
    }
    return kept
  }
}

/// Text in parts that are encoded one by one.
private struct SealedText {
  private let control: TokenizerTrie
  private(set) var parts: [[UInt8]] = [[]]

  init(_ control: TokenizerTrie) {
    self.control = control
  }

  /// Adds what a template writes.
  mutating func write(_ text: String) {
    parts[parts.count - 1] += text.utf8
  }

  /// Adds what somebody said. A part ends behind the first letter of a control token, or of what may become one.
  mutating func seal(_ text: ArraySlice<UInt8>) {
    let end = trimmed(text).endIndex - text.startIndex
    text.withUnsafeBufferPointer { text in
      let whole = UnsafeBufferPointer(rebasing: text[..<end])
      var place = 0
      while place < text.count {
        let (_, length) = scalar(in: text, at: place)
        parts[parts.count - 1] += text[place..<place + length]
        if isControl(whole, text, at: place) { parts.append([]) }
        place += length
      }
    }
  }

  private func isControl(
    _ whole: UnsafeBufferPointer<UInt8>, _ text: UnsafeBufferPointer<UInt8>, at place: Int
  ) -> Bool {
    if control.find(in: text, at: place).token != nil { return true }
    return place < whole.count && control.find(in: whole, at: place).isUnfinished
  }
}

/// Text without white space at its ends; what that is, is Python's `str.strip`'s.
private func trimmed(_ text: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
  text.withUnsafeBufferPointer { bytes in
    var (start, end) = (0, bytes.count)
    while start < end {
      let (first, length) = scalar(in: bytes, at: start)
      guard isSpace(first) else { break }
      start += length
    }
    while start < end, let last = bytes[start..<end].lastIndex(where: { $0 & 0xC0 != 0x80 }),
      isSpace(scalar(in: bytes, at: last).0)
    {
      end = last
    }
    return text[(text.startIndex + start)..<(text.startIndex + end)]
  }
}

private func isSpace(_ scalar: Unicode.Scalar) -> Bool {
  0x1C...0x1F ~= scalar.value || scalar.properties.isWhitespace
}
