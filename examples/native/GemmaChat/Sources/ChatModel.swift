import Foundation
import Gemma4

#if canImport(SwiftUI)
  import Observation
#endif

/// What the window shows, and what its buttons do. It knows no views, and is tested where there are none.
@MainActor
#if canImport(SwiftUI)
  @Observable
#endif
final class ChatModel {
  /// Text that looks alike.
  struct Run: Equatable, Sendable {
    var text: String
    var isDraft = false
    var isThought = false
  }

  /// A message, and a line about what it took.
  struct Line: Identifiable, Equatable, Sendable {
    let id: Int
    let role: Message.Role
    var runs: [Run]
    var note = ""

    /// Adds what a round has made, to the run before it where that looks alike.
    mutating func add(_ piece: Piece) {
      for token in piece.tokens where !token.text.isEmpty {
        let run = Run(text: token.text, isDraft: token.draft > 0, isThought: piece.channel == .thought)
        if let last = runs.last, (last.isDraft, last.isThought) == (run.isDraft, run.isThought) {
          runs[runs.count - 1].text += run.text
        } else {
          runs.append(run)
        }
      }
    }
  }

  enum State: Equatable {
    case closed
    case downloading(Double)
    case loading
    case ready
    case answering
  }

  /// What is being typed.
  var message = ""
  var thinking = false
  private(set) var lines: [Line] = []
  private(set) var state = State.closed
  /// What went wrong last, in one sentence.
  private(set) var failure: String?
  private let store: BundleStore
  private var conversation: Conversation?
  private var answering: Task<Void, Never>?

  private let options: Gemma4.Options

  init(
    store: BundleStore = BundleStore(),
    options: Gemma4.Options = .init(cacheLimit: 256 << 20, unloadWhenIdle: .seconds(600))
  ) {
    self.store = store
    self.options = options
  }

  var canSend: Bool {
    state == .ready && !message.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty
  }

  /// Opens a bundle: a folder's path, or an address that it is downloaded from.
  func open(_ place: String) async {
    do {
      failure = nil
      let folder = try await folder(of: place)
      state = .loading
      let gemma = try await Task.detached { [options] in try Gemma4(bundle: folder, options: options) }.value
      try await gemma.prewarm()
      conversation = gemma.conversation()
      (lines, state) = ([], .ready)
    } catch {
      (failure, state) = ("\(error)", conversation == nil ? .closed : .ready)
    }
  }

  private func folder(of place: String) async throws -> URL {
    guard place.contains("://"), let url = URL(string: place) else {
      return URL(fileURLWithPath: (place as NSString).expandingTildeInPath, isDirectory: true)
    }
    state = .downloading(0)
    return try await store.bundle(from: url) { [weak self] progress in
      Task { @MainActor in self?.show(progress) }
    }
  }

  private func show(_ progress: BundleStore.Progress) {
    if case .downloading = state { state = .downloading(progress.fraction) }
  }

  /// Asks what was typed.
  func send() {
    guard canSend, let conversation else { return }
    lines.append(Line(id: lines.count, role: .user, runs: [Run(text: message)]))
    lines.append(Line(id: lines.count, role: .model, runs: []))
    let pieces = conversation.stream(message, options: .init(thinking: thinking))
    (message, state, failure) = ("", .answering, nil)
    answering = Task { await show(pieces) }
  }

  private func show(_ pieces: AsyncThrowingStream<Piece, any Error>) async {
    let place = lines.count - 1
    do {
      for try await piece in pieces {
        lines[place].add(piece)
        if let statistics = piece.statistics { lines[place].note = Self.note(statistics) }
      }
    } catch {
      failure = "\(error)"
    }
    (state, answering) = (.ready, nil)
  }

  private static func note(_ statistics: Statistics) -> String {
    let share = statistics.tokens == 0 ? 0 : 100 * statistics.accepted / statistics.tokens
    return String(format: "%d tokens, %.1f a second, %d %% drafted", statistics.tokens, statistics.tokensPerSecond, share)
  }

  /// Ends the answer; what was said of it stays.
  func stop() {
    answering?.cancel()
  }

  /// Forgets all that was said.
  func reset() {
    stop()
    conversation?.reset()
    if state != .answering { lines = [] }
  }

  /// Waits until the answer has ended.
  func answered() async {
    await answering?.value
  }
}
