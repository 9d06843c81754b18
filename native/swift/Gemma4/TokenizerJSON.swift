import Foundation

/// A value of JSON, for the small parts of a file.
enum JSONValue: Equatable {
  case null
  case bool(Bool)
  case number(Double)
  case string(String)
  case array([JSONValue])
  case object([String: JSONValue])

  subscript(key: String) -> JSONValue {
    if case .object(let entries) = self { entries[key] ?? .null } else { .null }
  }

  var elements: [JSONValue] {
    if case .array(let elements) = self { elements } else { [] }
  }

  var text: String? {
    if case .string(let text) = self { text } else { nil }
  }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral,
  ExpressibleByBooleanLiteral
{
  init(stringLiteral value: String) { self = .string(value) }
  init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
  init(dictionaryLiteral elements: (String, JSONValue)...) {
    self = .object(Dictionary(elements, uniquingKeysWith: { $1 }))
  }
  init(booleanLiteral value: Bool) { self = .bool(value) }
}

/// Reads JSON from front to back, each part as its caller wants it.
///
/// A tokenizer's file has a million strings, of which nobody needs a `String`: they are handed on as bytes.
struct JSONReader {
  struct Malformed: Error {}

  private let bytes: UnsafeBufferPointer<UInt8>
  private var place = 0
  private var depth = 0

  /// - Parameter bytes: valid UTF-8 that outlives the reader.
  init(_ bytes: UnsafeBufferPointer<UInt8>) {
    self.bytes = bytes
  }

  /// The next byte that is no white space.
  private mutating func peek() throws -> UInt8 {
    while place < bytes.count {
      let byte = bytes[place]
      if byte != 0x20 && byte != 0x0A && byte != 0x0D && byte != 0x09 { return byte }
      place &+= 1
    }
    throw Malformed()
  }

  private mutating func take(_ byte: UInt8) throws {
    guard try peek() == byte else { throw Malformed() }
    place &+= 1
  }

  private mutating func takes(_ byte: UInt8) throws -> Bool {
    guard try peek() == byte else { return false }
    place &+= 1
    return true
  }

  /// Whether a string comes next.
  mutating func isString() throws -> Bool {
    try peek() == UInt8(ascii: "\"")
  }

  /// Nothing but white space may follow.
  mutating func end() throws {
    guard (try? peek()) == nil else { throw Malformed() }
  }

  /// An object; `entry` reads the value behind each key, whose bytes it is given.
  mutating func object(_ entry: (inout JSONReader, UnsafeBufferPointer<UInt8>) throws -> Void) throws {
    try take(UInt8(ascii: "{"))
    if try takes(UInt8(ascii: "}")) { return }
    var escaped: [UInt8] = []
    repeat {
      if let key = try plainString() {
        try take(UInt8(ascii: ":"))
        try entry(&self, key)
      } else {
        try unescape(into: &escaped)
        try take(UInt8(ascii: ":"))
        try escaped.withUnsafeBufferPointer { try entry(&self, $0) }
      }
    } while try takes(UInt8(ascii: ","))
    try take(UInt8(ascii: "}"))
  }

  /// An array; `element` reads each of its elements.
  mutating func array(_ element: (inout JSONReader) throws -> Void) throws {
    try take(UInt8(ascii: "["))
    if try takes(UInt8(ascii: "]")) { return }
    repeat { try element(&self) } while try takes(UInt8(ascii: ","))
    try take(UInt8(ascii: "]"))
  }

  /// A string; `body` is given its bytes.
  mutating func string<Result>(_ body: (UnsafeBufferPointer<UInt8>) throws -> Result) throws -> Result {
    if let plain = try plainString() { return try body(plain) }
    var escaped: [UInt8] = []
    try unescape(into: &escaped)
    return try escaped.withUnsafeBufferPointer(body)
  }

  /// A string without escapes, as it lies; nil, and nothing is read, if it has some.
  private mutating func plainString() throws -> UnsafeBufferPointer<UInt8>? {
    guard try isString() else { throw Malformed() }
    let start = place &+ 1
    guard start < bytes.count, let first = bytes.baseAddress.map({ $0 + start }),
      let quote = memchr(first, Int32(UInt8(ascii: "\"")), bytes.count - start)
    else { throw Malformed() }
    let length = UnsafeRawPointer(quote) - UnsafeRawPointer(first)
    guard memchr(first, Int32(UInt8(ascii: "\\")), length) == nil else { return nil }
    place = start &+ length &+ 1
    return UnsafeBufferPointer(start: first, count: length)
  }

  private mutating func unescape(into text: inout [UInt8]) throws {
    text.removeAll(keepingCapacity: true)
    place &+= 1
    while place < bytes.count {
      let byte = bytes[place]
      place &+= 1
      switch byte {
      case UInt8(ascii: "\""): return
      case UInt8(ascii: "\\"): text += UTF8.encode(try escape())!
      case 0..<0x20: throw Malformed()
      default: text.append(byte)
      }
    }
    throw Malformed()
  }

  private mutating func escape() throws -> Unicode.Scalar {
    guard place < bytes.count else { throw Malformed() }
    let byte = bytes[place]
    place &+= 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(byte)
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{C}"
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "u"): return try codePoint()
    default: throw Malformed()
    }
  }

  /// What follows `\u`, of two halves beyond the first 65,536.
  private mutating func codePoint() throws -> Unicode.Scalar {
    let first = try fourDigits()
    guard 0xD800..<0xDC00 ~= first else {
      guard let scalar = Unicode.Scalar(first) else { throw Malformed() }
      return scalar
    }
    guard place &+ 1 < bytes.count, bytes[place] == UInt8(ascii: "\\"), bytes[place &+ 1] == UInt8(ascii: "u") else {
      throw Malformed()
    }
    place &+= 2
    let second = try fourDigits()
    guard 0xDC00..<0xE000 ~= second,
      let scalar = Unicode.Scalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00))
    else { throw Malformed() }
    return scalar
  }

  private mutating func fourDigits() throws -> UInt32 {
    guard place &+ 4 <= bytes.count else { throw Malformed() }
    defer { place &+= 4 }
    return try bytes[place..<place + 4].reduce(0) { number, digit in
      guard let value = Character(Unicode.Scalar(digit)).hexDigitValue else { throw Malformed() }
      return number << 4 + UInt32(value)
    }
  }

  /// A number from 0 on, without a fraction.
  mutating func integer() throws -> Int {
    _ = try peek()
    let start = place
    var value = 0
    while place < bytes.count, 0x30...0x39 ~= bytes[place], place &- start < 10 {
      value = value &* 10 &+ Int(bytes[place] &- 0x30)
      place &+= 1
    }
    guard place > start else { throw Malformed() }
    return value
  }

  /// Any value, at most 32 levels deep.
  mutating func value() throws -> JSONValue {
    depth += 1
    defer { depth -= 1 }
    guard depth <= 32 else { throw Malformed() }
    switch try peek() {
    case UInt8(ascii: "{"): return try objectValue()
    case UInt8(ascii: "["): return try arrayValue()
    case UInt8(ascii: "\""): return .string(try string { String(decoding: $0, as: UTF8.self) })
    default: return try word()
    }
  }

  private mutating func objectValue() throws -> JSONValue {
    var entries: [String: JSONValue] = [:]
    try object { reader, key in entries[String(decoding: key, as: UTF8.self)] = try reader.value() }
    return .object(entries)
  }

  private mutating func arrayValue() throws -> JSONValue {
    var elements: [JSONValue] = []
    try array { elements.append(try $0.value()) }
    return .array(elements)
  }

  /// null, true, false or a number.
  private mutating func word() throws -> JSONValue {
    let start = place
    while place < bytes.count, "+-.".utf8.contains(bytes[place]) || isAlphanumeric(bytes[place]) { place &+= 1 }
    let word = String(decoding: bytes[start..<place], as: UTF8.self)
    switch word {
    case "null": return .null
    case "true": return .bool(true)
    case "false": return .bool(false)
    default:
      guard let number = Double(word), number.isFinite, word.first != "+" else { throw Malformed() }
      return .number(number)
    }
  }

  private func isAlphanumeric(_ byte: UInt8) -> Bool {
    0x30...0x39 ~= byte || 0x41...0x5A ~= byte || 0x61...0x7A ~= byte
  }
}
