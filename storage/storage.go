// Package storage is where a repository's objects live: four verbs on immutable objects, the errors that
// drivers speak, and the rules for keys.
//
// It never knows a format, never retries on its own and never overwrites. Drivers (storage/fs, storage/mem)
// and decorators (storage/fault) are all a Store and all pass storage/storagetest. It is used by repo, and
// by nothing below it.
package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store holds immutable objects under keys. All methods may be called from several goroutines at once.
//
// Errors are asked with errors.Is against this package's values; a driver wraps the error of the system below,
// so that its text survives. Every method gives up with the context's error when the context ends.
type Store interface {
	// Get appends the part r of the object to dst and returns the extended slice, as append does. It gives
	// everything of r that exists, or an error; never a short answer without one. On error the bytes of
	// dst[:len(dst)] are untouched and the returned slice is nil.
	// ErrNotExist: the storage is there and does not have the object. A storage that is gone is
	// ErrUnreachable: an outage must never look like an absent object.
	Get(ctx context.Context, key string, r Range, dst []byte) ([]byte, error)

	// Put creates the object with all of data, or leaves nothing that any other call can see. On nil it is
	// durable. Of several callers with the same key exactly one gets nil.
	// ErrExist: the key is taken; contents are not compared, and the object that is there is durable and
	// untouched. After any other error the object may exist all the same (the answer may have been lost):
	// only reading it tells. Where that error is ErrNotDurable too, reading tells nothing: a crash may yet remove what is
	// there. A later Put of the key tells, with ErrExist. data is not kept after the call and not changed.
	Put(ctx context.Context, key string, data []byte) error

	// List calls fn for every object whose key begins with prefix, in ascending byte order of the whole key,
	// without a notion of directories. An object created or deleted during the call may be listed or not;
	// every other one is. A nil answer means that the listing is complete. An error of fn ends
	// the listing and is returned as it is. fn may call the Store.
	// A prefix under which nothing lies is an empty listing; a storage that is gone is ErrUnreachable.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes the object; nil if it is absent. On nil the removal is durable. ErrLocked.
	Delete(ctx context.Context, key string) error
}

// Tidier is a Store in which a writer that was killed can leave more than objects.
type Tidier interface {
	// Tidy removes what unfinished writes left, if it was last touched before that time by the storage's clock: no object,
	// and nothing of a write that goes on. It says how many files, and of how many bytes.
	Tidy(ctx context.Context, before time.Time) (files int, bytes int64, err error)
}

// Locker is a Store that can keep an object from being deleted for a time. A decorator is one whatever is below it: ErrNoLock tells.
type Locker interface {
	// Lock makes sure that nobody may delete the object before that time; one that is kept for longer already stays so. On nil it is
	// durable.
	// ErrNoLock: the storage has nothing of the kind. ErrDenied: it has, and refuses, for this caller or here. ErrNotExist.
	Lock(ctx context.Context, key string, until time.Time) error
}

// Lock is s's, or ErrNoLock where s is no Locker. Decorators pass the call on with it.
func Lock(ctx context.Context, s Store, key string, until time.Time) error {
	if l, ok := s.(Locker); ok {
		return l.Lock(ctx, key, until)
	}
	return &Error{Op: "lock", Key: key, Class: ErrNoLock}
}

// Range is a part of an object, in bytes. The zero value is the whole object.
//
// A negative Off means the last -Off bytes, or all of an object that is shorter; Len then limits
// how many of these are read. Len 0 means up to the end. What lies past the end of the object is not there and no error:
// the answer may be shorter than asked for, or empty.
type Range struct{ Off, Len int64 }

// Resolve says which bytes of an object of the given size r stands for: n bytes from off, 0 <= off <= size,
// 0 <= n <= size-off.
func (r Range) Resolve(size int64) (off, n int64) {
	if r.Off < 0 {
		off = max(0, size+r.Off)
	} else {
		off = min(r.Off, size)
	}
	n = size - off
	if r.Len > 0 {
		n = min(n, r.Len)
	}
	return off, n
}

// Info describes an object in a listing.
type Info struct {
	Key     string
	Size    int64     // bytes
	ModTime time.Time // when the storage says that the object was created
}

// What a Store's errors are, for errors.Is.
var (
	// ErrNotExist: the object is absent, and the storage is known to be there.
	ErrNotExist = errors.New("no such object")
	// ErrExist: the key is taken.
	ErrExist = errors.New("object exists already")
	// ErrUnreachable: the storage does not answer, or is not the one that it was: nothing is known about
	// any object.
	ErrUnreachable = errors.New("storage unreachable")
	// ErrDenied: the storage refuses this caller.
	ErrDenied = errors.New("access denied")
	// ErrLocked: nobody may delete the object for a time that is not over. It is an ErrDenied.
	ErrLocked = fmt.Errorf("%w: the object is locked", ErrDenied)
	// ErrFull: no room, or the quota is used up.
	ErrFull = errors.New("storage full")
	// ErrReadOnly: the storage takes no writes.
	ErrReadOnly = errors.New("storage is read-only")
	// ErrNotEmpty: a place for a new repository holds other things already.
	ErrNotEmpty = errors.New("not empty")
	// ErrNotDurable: what can be read under the key is not known to survive a crash. Errors of Put are it besides their class.
	ErrNotDurable = errors.New("not known to survive a crash")
	// ErrNoLock: the storage cannot keep objects from being deleted.
	ErrNoLock = errors.New("storage has no object lock")
	// ErrKey: the key or prefix breaks the rules of CheckKey. A mistake of the program, not of the storage.
	ErrKey = errors.New("invalid object key")
)

// Error is what drivers return: which verb failed on which key, the class (one of this package's errors, or
// nil when the driver cannot tell) and the reason from the system below. errors.Is and errors.As see both.
type Error struct {
	Op    string // get, put, list, delete, lock
	Key   string // or the prefix of a listing
	Class error
	Err   error // may be nil when Class says it all
	// NotDurable says that the error is ErrNotDurable besides. The text does not change.
	NotDurable bool
}

func (e *Error) Error() string {
	s := e.Op
	if e.Key != "" { // a listing of everything has none
		s += " " + e.Key
	}
	if e.Class != nil {
		s += ": " + e.Class.Error()
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives errors.Is and errors.As all sides.
func (e *Error) Unwrap() (sides []error) {
	if e.Class != nil {
		sides = append(sides, e.Class)
	}
	if e.Err != nil {
		sides = append(sides, e.Err)
	}
	if e.NotDurable {
		sides = append(sides, ErrNotDurable)
	}
	return sides
}
