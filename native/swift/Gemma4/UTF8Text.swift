/// Whether bytes are valid UTF-8.
func isValidUTF8(_ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
  var place = 0
  while place < bytes.count {
    if bytes[place] < 0x80 {
      place &+= 1
      continue
    }
    guard let length = lengthOfCharacter(bytes, at: place) else { return false }
    place &+= length
  }
  return true
}

/// The length of the valid character beyond ASCII that begins at a place; nil if there is none (Unicode's table 3-7).
private func lengthOfCharacter(_ bytes: UnsafeBufferPointer<UInt8>, at place: Int) -> Int? {
  let (length, second): (Int, ClosedRange<UInt8>)
  switch bytes[place] {
  case 0xC2...0xDF: (length, second) = (2, 0x80...0xBF)
  case 0xE0: (length, second) = (3, 0xA0...0xBF)
  case 0xED: (length, second) = (3, 0x80...0x9F)
  case 0xE1...0xEF: (length, second) = (3, 0x80...0xBF)
  case 0xF0: (length, second) = (4, 0x90...0xBF)
  case 0xF1...0xF3: (length, second) = (4, 0x80...0xBF)
  case 0xF4: (length, second) = (4, 0x80...0x8F)
  default: return nil
  }
  guard place + length <= bytes.count, second ~= bytes[place + 1] else { return nil }
  for follower in bytes[(place + 2)..<(place + length)] where follower & 0xC0 != 0x80 { return nil }
  return length
}

/// The character that begins at a place of valid UTF-8, and its length there.
func scalar(in text: UnsafeBufferPointer<UInt8>, at place: Int) -> (Unicode.Scalar, length: Int) {
  let first = UInt32(text[place])
  func follower(_ number: Int) -> UInt32 { UInt32(text[place &+ number]) & 0x3F }
  let (value, length): (UInt32, Int) =
    switch first {
    case 0..<0x80: (first, 1)
    case 0..<0xE0: ((first & 0x1F) << 6 | follower(1), 2)
    case 0..<0xF0: ((first & 0x0F) << 12 | follower(1) << 6 | follower(2), 3)
    default: ((first & 0x07) << 18 | follower(1) << 12 | follower(2) << 6 | follower(3), 4)
    }
  return (Unicode.Scalar(value) ?? "\u{FFFD}", length)
}
