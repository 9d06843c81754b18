import Foundation
import Gemma4
import Testing

#if os(Linux)  // whose C module leaves them out
  @_silgen_name("posix_openpt") private func posix_openpt(_ flags: Int32) -> Int32
  @_silgen_name("grantpt") private func grantpt(_ terminal: Int32) -> Int32
  @_silgen_name("unlockpt") private func unlockpt(_ terminal: Int32) -> Int32
  @_silgen_name("ptsname") private func ptsname(_ terminal: Int32) -> UnsafeMutablePointer<CChar>?
#endif

/// The command itself, with pipes and with a terminal.
struct CommandTests {
  /// The command, running.
  private final class Command {
    let process = Process()
    private let input: FileHandle
    private let output: FileHandle
    private let errors = Pipe()
    private var said = ""
    private var heard = ""  // of it

    /// - Parameter onTerminal: whether input and output are a terminal, rather than pipes.
    init(_ arguments: [String], onTerminal: Bool = false) throws {
      process.executableURL = try Self.folder.appendingPathComponent("gemma4-chat")
      process.arguments = arguments
      process.environment = ["PATH": "/nowhere"]  // without g++ rounds are not compiled, which takes a CPU seconds
      if onTerminal {
        let terminal = posix_openpt(O_RDWR | O_NOCTTY)
        let isOpen = terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0
        try #require(isOpen)
        let path = String(cString: try #require(ptsname(terminal)))
        let end = try #require(FileHandle(forUpdatingAtPath: path))
        (process.standardInput, process.standardOutput, process.standardError) = (end, end, end)
        input = FileHandle(fileDescriptor: terminal, closeOnDealloc: true)
        output = input
      } else {
        let (into, from) = (Pipe(), Pipe())
        (process.standardInput, process.standardOutput, process.standardError) = (into, from, errors)
        (input, output) = (into.fileHandleForWriting, from.fileHandleForReading)
      }
      try process.run()
      if onTerminal { try (process.standardInput as? FileHandle)?.close() }  // the process has its own
      let identifier = process.processIdentifier
      DispatchQueue.global().asyncAfter(deadline: .now() + 60) { [weak process] in
        if process?.isRunning == true { kill(identifier, SIGKILL) }
      }
    }

    /// Where products are built: the tests lie there, too.
    private static var folder: URL {
      get throws {
        #if os(Linux)
          return Bundle.main.bundleURL
        #else
          return try #require(Bundle.allBundles.first { $0.bundlePath.hasSuffix(".xctest") }).bundleURL
            .deletingLastPathComponent()
        #endif
      }
    }

    func write(_ text: String) { input.write(Data(text.utf8)) }

    /// Reads until this was said, behind what was waited for before.
    func wait(for text: String) throws {
      while true {
        if let range = said.dropFirst(heard.count).range(of: text) {
          heard = String(said[..<range.upperBound])
          return
        }
        try #require(read(), "it ended with: \(said)")
      }
    }

    /// Whether something more was said; a terminal that nobody has any more is an error.
    private func read() -> Bool {
      var bytes = [UInt8](repeating: 0, count: 4096)
      #if os(Linux)
        let count = Glibc.read(output.fileDescriptor, &bytes, bytes.count)
      #else
        let count = Darwin.read(output.fileDescriptor, &bytes, bytes.count)
      #endif
      said += String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
      return count > 0
    }

    /// All that it said, once it has ended; a terminal has errors, too.
    func end() -> (out: String, errors: String, status: Int32) {
      var lines = ""
      if let pipe = process.standardInput as? Pipe {
        try? pipe.fileHandleForWriting.close()
        lines = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      }
      while read() {}
      process.waitUntilExit()
      return (said, lines, process.terminationStatus)
    }
  }

  private static var bundle: URL {
    get throws {
      let cases = ProcessInfo.processInfo.environment["GEMMA4_CASES"]
      return URL(fileURLWithPath: try #require(cases, "tools/test_swift sets GEMMA4_CASES")).appendingPathComponent("tiny.bundle")
    }
  }

  private static let question = "The wall was high, and"

  /// What the package answers to these, as one conversation.
  private static func answers(_ questions: [String], system: String? = nil) async throws -> [String] {
    let conversation = try Gemma4(bundle: bundle, options: .init(compile: false)).conversation(system: system)
    var answers: [String] = []
    for question in questions {
      var answer = ""
      for try await piece in conversation.stream(question, options: .init(maxTokens: 30)) { answer += piece.text }
      answers.append(answer)
    }
    return answers
  }

  @Test func answersLineByLine() async throws {
    let command = try Command([Self.bundle.path, "--max-tokens", "30", "--system", "Be brief.", "--show-drafts"])
    command.write("\(Self.question)\nWho came back?\n\n/reset\n\(Self.question)\n/quit\nnever read\n")
    let done = command.end()
    let expected = try await Self.answers([Self.question, "Who came back?"], system: "Be brief.")
    #expect(done.out == [expected[0], expected[1], expected[0]].map { $0 + "\n" }.joined())
    #expect(done.status == 0)
    let lines = done.errors.split(separator: "\n")
    #expect(lines.count == 3)
    #expect(lines.allSatisfy { $0.hasPrefix("[") && $0.contains(" prompt tokens kept") })
  }

  @Test func coloursDraftsOnATerminal() async throws {
    let command = try Command([Self.bundle.path, "--max-tokens", "30", "--drafts", "3", "--show-drafts"], onTerminal: true)
    try command.wait(for: "> ")
    command.write("\(Self.question)\n")
    let expected = try await Self.answers([Self.question])
    try command.wait(for: "\r\n> ")
    command.write("/quit\n")
    let done = command.end()
    #expect(done.out.contains("\u{1B}[32m"))
    let plain = done.out.replacing(#/\x1B\[[0-9;]*m/#, with: "").replacing("\r\n", with: "\n")
    #expect(plain.hasPrefix("> \(Self.question)\n\(expected[0])\n["))
    #expect(done.status == 0)
  }

  /// An answer ends, the command does not; where there is no answer, the command ends.
  @Test func ctrlC() async throws {
    let long = String(repeating: "The wall was high, and she had been in the room. ", count: 80)  // 4095 is a line's most
    let command = try Command([Self.bundle.path], onTerminal: true)
    try command.wait(for: "> ")
    command.write("\(Self.question)\n")
    try command.wait(for: "\r\n> ")
    command.write("\(long)\n")
    try command.wait(for: "reading: ")
    command.process.interrupt()
    try command.wait(for: "cancelled]")
    try command.wait(for: "\r\n> ")
    command.process.interrupt()
    let done = command.end()
    #expect(done.status == 130)
  }

  @Test func saysWhatIsWrongInOneLine() throws {
    func refusal(_ arguments: [String]) throws -> String {
      let done = try Command(arguments).end()
      #expect(done.status == 1)
      #expect(done.out == "")
      return done.errors
    }
    #expect(try refusal(["/nowhere"]) == "gemma4-chat: cannot read /nowhere/manifest.json\n")
    #expect(try refusal(["--seed"]) == "gemma4-chat: --seed wants a value\n")
    let folder = FileManager.default.temporaryDirectory.path
    let address = try refusal(["http://127.0.0.1:1/X.bundle", "--folder", folder])
    #expect(address.hasPrefix("gemma4-chat: cannot download http://127.0.0.1:1/X.bundle: manifest.json: "))
    let command = try Command([Self.bundle.path, "--drafts", "99"])
    command.write("Hi\n")
    let done = command.end()
    #expect(done.errors == "gemma4-chat: a round has 99 drafts, and the bundle has rounds of 0 to 8\n")
    #expect(done.status == 1)
    #expect(try Command(["--help"]).end().out.hasPrefix("usage: gemma4-chat BUNDLE"))
  }
}
