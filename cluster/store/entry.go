package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// formatVersion is the version of everything this package writes itself.
const formatVersion = 1

// castagnoli is the polynomial with hardware support on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A log entry is stored as
//
//	version(1) crc32c(4) type(1) term(8) prevTerm(8) appendedAt(8) extLen(4) ext data
//
// The CRC covers group, index, version and all that follows it, so that a valid
// value under a wrong key is noticed. prevTerm is the term of the entry before,
// 0 if that is not known: by Raft's log matching, index and term name an entry,
// so the chain shows a stale entry among newer ones.
const entryHeader = 1 + 4 + 1 + 8 + 8 + 8 + 4

func entrySize(l *raft.Log) int { return entryHeader + len(l.Extensions) + len(l.Data) }

// keyCRC is the CRC over what the key says, with which a value's CRC starts.
func keyCRC(group uint32, index uint64, version byte) uint32 {
	var k [13]byte
	binary.BigEndian.PutUint32(k[0:], group)
	binary.BigEndian.PutUint64(k[4:], index)
	k[12] = version
	return crc32.Update(0, castagnoli, k[:])
}

// encodeEntry writes l into dst, which has entrySize(l) bytes.
func encodeEntry(dst []byte, group uint32, prevTerm uint64, l *raft.Log) {
	dst[0] = formatVersion
	dst[5] = byte(l.Type)
	binary.BigEndian.PutUint64(dst[6:], l.Term)
	binary.BigEndian.PutUint64(dst[14:], prevTerm)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	binary.BigEndian.PutUint64(dst[22:], uint64(at))
	binary.BigEndian.PutUint32(dst[30:], uint32(len(l.Extensions)))
	n := copy(dst[entryHeader:], l.Extensions)
	copy(dst[entryHeader+n:], l.Data)
	binary.BigEndian.PutUint32(dst[1:], entryCRC(dst, group, l.Index))
}

func entryCRC(v []byte, group uint32, index uint64) uint32 {
	return crc32.Update(keyCRC(group, index, v[0]), castagnoli, v[5:])
}

// entryTerms are the terms that a checked entry carries.
type entryTerms struct{ term, prevTerm uint64 }

// checkEntry verifies a stored entry. The error is a *CorruptError, or a
// *FormatError for an intact entry of a newer release.
func checkEntry(v []byte, group uint32, index uint64) (entryTerms, error) {
	if len(v) < entryHeader {
		return entryTerms{}, &CorruptError{Group: group, Index: index, Reason: fmt.Sprintf("%d bytes are too short for an entry", len(v))}
	}
	crc := entryCRC(v, group, index)
	if want := binary.BigEndian.Uint32(v[1:]); crc != want {
		return entryTerms{}, &CorruptError{Group: group, Index: index, Reason: fmt.Sprintf("checksum is %08x, should be %08x", crc, want)}
	}
	if v[0] != formatVersion {
		return entryTerms{}, &FormatError{Path: fmt.Sprintf("entry %d of group %d", index, group), Version: int(v[0])}
	}
	if n := binary.BigEndian.Uint32(v[30:]); uint64(n) > uint64(len(v)-entryHeader) {
		return entryTerms{}, &CorruptError{Group: group, Index: index, Reason: "extensions are longer than the entry"}
	}
	return entryTerms{term: binary.BigEndian.Uint64(v[6:]), prevTerm: binary.BigEndian.Uint64(v[14:])}, nil
}

// decodeEntry verifies v and fills l, whose slices then point into v.
func decodeEntry(v []byte, group uint32, index uint64, l *raft.Log) error {
	t, err := checkEntry(v, group, index)
	if err != nil {
		return err
	}
	*l = raft.Log{Index: index, Term: t.term, Type: raft.LogType(v[5])}
	if at := int64(binary.BigEndian.Uint64(v[22:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	ext := int(binary.BigEndian.Uint32(v[30:]))
	// The capacities end with the slices: an append by the reader must not
	// write into what follows.
	if ext > 0 {
		l.Extensions = v[entryHeader : entryHeader+ext : entryHeader+ext]
	}
	if data := v[entryHeader+ext:]; len(data) > 0 {
		l.Data = data[:len(data):len(data)]
	}
	return nil
}

// A stable value is stored as version(1) crc32c(4) value; the CRC covers group,
// key, version and value.
const stableHeader = 5

func stableCRC(group uint32, key []byte, version byte, val []byte) uint32 {
	crc := keyCRC(group, uint64(len(key)), version)
	crc = crc32.Update(crc, castagnoli, key)
	return crc32.Update(crc, castagnoli, val)
}

func encodeStable(group uint32, key, val []byte) []byte {
	b := make([]byte, stableHeader+len(val))
	b[0] = formatVersion
	copy(b[stableHeader:], val)
	binary.BigEndian.PutUint32(b[1:], stableCRC(group, key, formatVersion, val))
	return b
}

// decodeStable verifies a stable value and returns the part of b that holds it.
func decodeStable(group uint32, key, b []byte) ([]byte, error) {
	if len(b) < stableHeader {
		return nil, &CorruptError{Group: group, Reason: fmt.Sprintf("value of %q is cut short", key)}
	}
	if binary.BigEndian.Uint32(b[1:]) != stableCRC(group, key, b[0], b[stableHeader:]) {
		return nil, &CorruptError{Group: group, Reason: fmt.Sprintf("value of %q fails its checksum", key)}
	}
	if b[0] != formatVersion {
		return nil, &FormatError{Path: fmt.Sprintf("value of %q of group %d", key, group), Version: int(b[0])}
	}
	return b[stableHeader:], nil
}
