package store

import (
	"errors"
	"fmt"
)

var (
	// ErrInUse says that another process, or another Store of this one, holds
	// the data folder. It is matched by errors.Is on an *InUseError.
	ErrInUse = errors.New("data folder is in use")
	// ErrClosed is returned by calls on a closed Store or Group.
	ErrClosed = errors.New("store is closed")
	// ErrFailed is matched by every write after the first failed one. What is
	// on the disk is then unknown, so nothing more is written or acknowledged.
	ErrFailed = errors.New("store has failed")
	// ErrKeyNotFound is what StableStore.Get returns for a missing key. Raft
	// compares the text with "not found", so the text is part of the contract.
	ErrKeyNotFound = errors.New("not found")
)

// InUseError is returned by Open when the folder is locked.
type InUseError struct {
	Dir string // the data folder
	Err error  // what the lock call said
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("data folder %s is in use by another process (%v): stop that process or choose another --data folder", e.Dir, e.Err)
}

// Is makes errors.Is(err, ErrInUse) hold.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// Unwrap returns the error of the lock call.
func (e *InUseError) Unwrap() error { return e.Err }

// IdentityError says that the data folder belongs to another cluster or node.
type IdentityError struct {
	Dir   string
	Field string // "cluster id" or "node name"
	Have  string // what the folder says
	Want  string // what was asked for
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("data folder %s belongs to %s %q, not %q: start the node with the folder that belongs to it, "+
		"or with an empty one to join as a new member", e.Dir, e.Field, e.Have, e.Want)
}

// CorruptError says that a stored entry or value failed its check, or that it
// is missing where it must be.
type CorruptError struct {
	Group  uint32
	Index  uint64 // log index, 0 when it is not about a log entry
	Reason string
	Err    error // underlying error, may be nil
}

func (e *CorruptError) Error() string {
	s := fmt.Sprintf("group %d: corrupt entry at index %d: %s", e.Group, e.Index, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the underlying error, if there is one.
func (e *CorruptError) Unwrap() error { return e.Err }

// QuarantineError says that a replica lost something it had acknowledged. It
// must not take part in Raft under its old server id; see Store.SetAside.
type QuarantineError struct {
	Group  uint32
	Reason string
	Err    error // what was found, may be nil
}

func (e *QuarantineError) Error() string {
	s := fmt.Sprintf("group %d: replica is set aside: %s", e.Group, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what was found.
func (e *QuarantineError) Unwrap() error { return e.Err }

// DamagedError says that one of the store's own files cannot be used. Open with
// Options.Repair moves a damaged log store aside and reports its groups as set
// aside.
type DamagedError struct {
	Path string
	What string // "log store", "node file", "marks file"
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s %s is damaged: %v", e.What, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// FormatError says that a file was written by a release this one does not know.
// Nothing is changed on disk.
type FormatError struct {
	Path    string
	Version int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format version %d, this release knows up to %d: use the release that wrote it or a newer one",
		e.Path, e.Version, formatVersion)
}

// OrderError says that Raft was about to leave a gap in the log, to overwrite
// entries without truncating first, or to delete from the middle: a broken
// invariant.
type OrderError struct {
	Group       uint32
	Op          string
	First, Last uint64 // bounds of the log before the call
	Min, Max    uint64 // what was asked for
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("group %d: %s of [%d..%d] on log [%d..%d] would leave a gap", e.Group, e.Op, e.Min, e.Max, e.First, e.Last)
}

// failedError is what writes return after the first failure.
type failedError struct{ cause error }

func (e *failedError) Error() string   { return "store has failed: " + e.cause.Error() }
func (e *failedError) Unwrap() []error { return []error{ErrFailed, e.cause} }
