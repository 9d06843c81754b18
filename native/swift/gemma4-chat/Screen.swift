import Foundation
import Gemma4

/// Writes answers: in colours on a terminal, as plain text anywhere else.
struct Screen: Sendable {
  /// How letters look.
  private enum Look: String {
    case plain = "0"
    case thought = "2"
    case draft = "32"
    case thoughtDraft = "2;32"
  }

  private static let long = 256  // tokens

  let isTerminal: Bool
  let showsDrafts: Bool
  private let out: @Sendable (String) -> Void
  private let aside: @Sendable (String) -> Void
  private var look = Look.plain
  private var channel: Channel?
  private var isReading = false

  /// - Parameters:
  ///   - out: takes answers.
  ///   - aside: takes what is said about them.
  init(
    isTerminal: Bool, showsDrafts: Bool,
    out: @escaping @Sendable (String) -> Void = { FileHandle.standardOutput.write(Data($0.utf8)) },
    aside: @escaping @Sendable (String) -> Void = { FileHandle.standardError.write(Data($0.utf8)) }
  ) {
    self.isTerminal = isTerminal
    self.showsDrafts = showsDrafts
    self.out = out
    self.aside = aside
  }

  /// Shows what a round has made.
  mutating func show(_ piece: Piece) {
    if piece.tokens.isEmpty { return say(piece.progress) }
    clear()
    if !piece.text.isEmpty { begin(piece.channel) }
    for token in piece.tokens where !token.text.isEmpty {
      write(token.text, look(of: token, in: piece.channel))
    }
  }

  /// Ends an answer, with a line about it.
  mutating func end(_ finish: Piece.Finish?, _ statistics: Statistics?) {
    clear()
    if channel != nil { write("\n", .plain) }
    channel = nil
    guard statistics != nil || finish == nil else { return }
    // A task that is cancelled between two pieces gets no last one.
    let line = statistics.map { Self.line(finish, $0) } ?? "[cancelled]"
    aside(isTerminal ? "\u{1B}[2m\(line)\u{1B}[0m\n" : "\(line)\n")
  }

  /// Asks for the next message, where somebody sees it.
  mutating func prompt() {
    if isTerminal { out("> ") }
  }

  /// Says something about the conversation.
  func say(_ text: String) {
    aside(text + "\n")
  }

  /// Says how far a download is, in the place of what was said of it before.
  func say(_ progress: BundleStore.Progress) {
    guard isTerminal else { return }
    let end = progress.fraction < 1 ? "" : "\n"
    aside("\r\u{1B}[Kdownloading: \(Int(progress.fraction * 100)) % of \(progress.total / 1_000_000) MB\(end)")
  }

  /// Says how far a long prompt is read, until there is something to show.
  private mutating func say(_ progress: Piece.Progress) {
    guard isTerminal, progress.toRead >= Self.long else { return }
    isReading = true
    aside("\r\u{1B}[Kreading: \(100 * progress.read / progress.toRead) %")
  }

  private mutating func clear() {
    if isReading { aside("\r\u{1B}[K") }
    isReading = false
  }

  private mutating func begin(_ next: Channel) {
    if channel == .thought, next == .answer { write("\n\n", .thought) }
    channel = next
  }

  private func look(of token: Piece.Token, in channel: Channel) -> Look {
    switch (channel, showsDrafts && token.draft > 0) {
    case (.answer, false): .plain
    case (.answer, true): .draft
    case (.thought, false): .thought
    case (.thought, true): .thoughtDraft
    }
  }

  private mutating func write(_ text: String, _ next: Look) {
    guard isTerminal else { return channel == .thought ? aside(text) : out(text) }
    out(next == look ? text : "\u{1B}[0m" + (next == .plain ? "" : "\u{1B}[\(next.rawValue)m") + text)
    look = next
  }

  /// What an answer took.
  static func line(_ finish: Piece.Finish?, _ statistics: Statistics) -> String {
    let first = Double(statistics.timeToFirstToken / .milliseconds(1)) / 1000
    var parts = [
      "\(statistics.tokens) tokens", String(format: "%.1f tokens/s", statistics.tokensPerSecond),
      String(format: "first after %.2f s", first),
    ]
    if statistics.drafted > 0 {
      parts.append("\(statistics.accepted) of \(statistics.drafted) drafts accepted")
      parts.append(String(format: "%.2f tokens a round", statistics.tokensPerRound))
    }
    parts.append("\(statistics.keptTokens) of \(statistics.promptTokens) prompt tokens kept")
    if finish == .length { parts.append("cut off at its length") }
    if finish == .cancelled { parts.append("cancelled") }
    return "[" + parts.joined(separator: ", ") + "]"
  }
}
