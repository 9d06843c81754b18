import Foundation
import Gemma4

@main
enum Chat {
  static func main() async {
    do {
      let arguments = try Arguments(CommandLine.arguments.dropFirst())
      if arguments.wantsHelp { return print(Arguments.help) }
      try await run(arguments)
    } catch {
      FileHandle.standardError.write(Data("gemma4-chat: \(error)\n".utf8))
      exit(1)
    }
  }

  private static func run(_ arguments: Arguments) async throws {
    let isTerminal = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1
    var screen = Screen(isTerminal: isTerminal, showsDrafts: arguments.showsDrafts)
    let interrupts = Interrupts()
    let gemma = try Gemma4(bundle: await bundle(arguments, screen))
    let conversation = gemma.conversation(system: arguments.system)
    if isTerminal { Task { try? await gemma.prewarm() } }  // what is wrong is said with the first answer
    screen.prompt()
    let lines = Lines()
    while let line = await lines.next() {
      switch line.trimmingCharacters(in: .whitespaces) {
      case "/quit": return
      case "/reset": conversation.reset()
      case "": break
      default: screen = try await answer(line, conversation, arguments, screen, interrupts)
      }
      screen.prompt()
    }
  }

  /// The bundle's folder, downloaded if it is an address.
  private static func bundle(_ arguments: Arguments, _ screen: Screen) async throws -> URL {
    guard arguments.bundle.contains("://"), let url = URL(string: arguments.bundle) else {
      return URL(fileURLWithPath: arguments.bundle, isDirectory: true)
    }
    let store = BundleStore(folder: arguments.folder.map { URL(fileURLWithPath: $0, isDirectory: true) })
    return try await store.bundle(from: url) { screen.say($0) }
  }

  /// Answers a message, until the answer's end or an interrupt.
  private static func answer(
    _ line: String, _ conversation: Conversation, _ arguments: Arguments, _ screen: Screen, _ interrupts: Interrupts
  ) async throws -> Screen {
    let answering = Task {
      var screen = screen
      var last: Piece?
      for try await piece in conversation.stream(line, options: arguments.options) {
        screen.show(piece)
        last = piece
      }
      screen.end(last?.finish, last?.statistics)
      return screen
    }
    await interrupts.are(for: answering)
    let result = await answering.result
    await interrupts.areForNobody()
    return try result.get()
  }
}

/// Ctrl-C: ends the answer that is being made, and the command where there is none.
actor Interrupts {
  private var cancel: (@Sendable () -> Void)?
  private let source: any DispatchSourceSignal

  init() {
    signal(SIGINT, SIG_IGN)
    let source = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
    self.source = source
    source.setEventHandler { [weak self] in
      guard let self else { return }
      Task { await self.fire() }
    }
    source.resume()
  }

  func are(for task: Task<some Sendable, any Error>) {
    cancel = { task.cancel() }
  }

  func areForNobody() {
    cancel = nil
  }

  private func fire() {
    guard let cancel else { exit(130) }
    cancel()
  }
}
