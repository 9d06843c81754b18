/// Turns of a user and the model. The keys of what was said are kept, so that a turn reads what is new only.
///
/// One answer is made at a time: a new question ends the answer before it, and what was said of it until then stays.
public final class Conversation: Sendable {
  private struct State {
    var said: [Said]
    var turn: Turn?
  }

  /// A message, and the ids that the model wrote it with, which need not be those that its text is encoded to.
  private struct Said: Sendable {
    let message: Message
    var ids: [Int32]?
  }

  private let gemma: Gemma4
  private let system: String?
  private let keys = Keys()
  private let state: Locked<State>

  init(_ gemma: Gemma4, system: String?, messages: [Message]) {
    self.gemma = gemma
    self.system = system
    state = Locked(State(said: messages.map { Said(message: $0) }))
  }

  /// What was said, and what is being answered as far as it has come. The system prompt and thoughts are not among it.
  public var messages: [Message] {
    state { $0.said.map(\.message) + ($0.turn?.messages ?? []) }
  }

  /// The model's answer to this; see ``Gemma4/stream(_:options:)`` for pieces, cancelling and errors.
  ///
  /// A question whose answer fails before its first token is not kept.
  public func stream(_ text: String, options: GenerationOptions = .init()) -> AsyncThrowingStream<Piece, any Error> {
    let turn = Turn(Message(.user, text), markers: gemma.manifest.text.markers, stops: gemma.manifest.text.stops)
    let said = state { state in
      Self.close(&state)
      state.turn = turn
      return state.said
    }
    return Generation(gemma, keys: keys, options: options, turn: turn) { [self] in
      try prompt(said, turn.question, thinking: options.thinking)
    }.stream
  }

  /// Forgets all that was said, but not the system prompt.
  public func reset() {
    state { state in
      Self.close(&state)
      state.said = []
    }
  }

  /// What is being answered becomes what was said.
  private static func close(_ state: inout State) {
    guard let turn = state.turn else { return }
    turn.end()
    let ids = turn.answerIds
    state.said += turn.messages.map { Said(message: $0, ids: $0.role == .model ? ids : nil) }
    state.turn = nil
  }

  /// Ids of all that was said and the question. Answers are in it as the model wrote them, so that keys are found.
  private func prompt(_ said: [Said], _ question: Message, thinking: Bool) throws -> [Int32] {
    var messages = said.map { $0.ids == nil ? $0.message : Message(.model, "") } + [question]
    var written = said.map(\.ids) + [nil]
    if let system {
      messages.insert(Message(.system, system), at: 0)
      written.insert(nil, at: 0)
    }
    return try gemma.ids(messages, written: written, thinking: thinking)
  }
}

/// A question, and its answer as far as it has come.
final class Turn: Sendable {
  private struct State {
    var text = ""
    var ids: [Int32] = []
    var hasFailed = false
    var isOver = false
  }

  let question: Message
  private let markers: Manifest.Markers
  private let stops: [Int32]
  private let state = Locked(State())

  init(_ question: Message, markers: Manifest.Markers, stops: [Int32]) {
    self.question = question
    self.markers = markers
    self.stops = stops
  }

  /// Whether nothing more is to be answered.
  var isOver: Bool { state { $0.isOver } }

  var messages: [Message] {
    state { state in
      if state.hasFailed { return [] }
      return state.text.isEmpty ? [question] : [question, Message(.model, state.text)]
    }
  }

  /// Ids of the answer, without thoughts and the stop token.
  var answerIds: [Int32] {
    var isInside = false
    return state { $0.ids }.filter { id in
      guard id == markers.open || id == markers.close else { return !isInside && !stops.contains(id) }
      isInside = id == markers.open
      return false
    }
  }

  func add(_ piece: Piece) {
    state { state in
      if piece.channel == .answer { state.text += piece.text }
      state.ids += piece.tokens.map(\.id)
    }
  }

  /// The answer failed. If none of it is there, nothing was asked.
  func fail() {
    state { $0.hasFailed = $0.ids.isEmpty }
  }

  func end() {
    state { $0.isOver = true }
  }
}

extension Gemma4 {
  /// The ids of messages, of which some are known as the model wrote them; these are empty.
  func ids(_ messages: [Message], written: [[Int32]?], thinking: Bool) throws -> [Int32] {
    var ids = try self.ids(messages, thinking: thinking)
    guard let turn = manifest.text.markers.turn else { return ids }
    var end = ids.count
    for known in [nil] + written.reversed() {  // from the turn that is to come, backwards
      guard let start = ids[..<end].lastIndex(of: turn) else { break }
      if let known, let close = ids[start..<end].firstIndex(where: manifest.text.stops.contains) {
        ids.insert(contentsOf: known, at: close)
      }
      end = start
    }
    return ids
  }
}
