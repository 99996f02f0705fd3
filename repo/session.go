package repo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

const (
	sessionsPrefix  = "sessions/"
	packsPrefix     = "packs/"
	indexPrefix     = "index/"
	snapshotsPrefix = "snapshots/"
	gcPrefix        = "gc/"
	basePrefix      = "base/"

	// publishAfter is how long finished packs may stay without an index segment that names them, and publishChunks
	// how many chunks: both bound what a killed session leaves unfindable and what is kept in memory.
	publishAfter  = 10 * time.Minute
	publishChunks = 100_000
	// uploaders write finished packs while the workers fill the next one.
	uploaders = 2
)

// SessionOptions describe who writes.
type SessionOptions struct {
	Cluster  string
	Host     string
	CacheDir string // for the chunk index and notes; "" holds them in memory, for this session only
	Now      func() time.Time
	// Former is a session that was fenced and which this one continues (W6): what it uploaded is taken over as far as no
	// prune has begun to delete it.
	Former string
}

// announcement is the payload of sessions/<sid>.
type announcement struct {
	Version int       `json:"version"`
	Cluster string    `json:"cluster"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	GC      uint64    `json:"gc"`               // the newest gc/<n> seen before announcing; 0: none
	Repack  bool      `json:"repack,omitempty"` // a prune's own session, which refers to nothing
	Nonce   string    `json:"nonce"`
}

// outcome is the payload of snapshots/<cluster>/<sid>.
type outcome struct {
	Version  int             `json:"version"`
	Outcome  string          `json:"outcome"` // outcomeSnapshot, …
	Nonce    string          `json:"nonce"`
	Manifest json.RawMessage `json:"manifest,omitempty"`
	Segments []string        `json:"segments,omitempty"` // FENCED: index segments that were there before; prunes see to them

	// Of one that was read.
	by    *keys.Certificate // who signed it; nil in a repository where nobody does
	group string            // trust group that it is sealed for; "" also of what all groups read
	// common: it is sealed for all groups, as snapshots are by nobody who is honest.
	common bool
	sum    [sha256.Size]byte // of the object
}

// Outcomes of a session.
const (
	outcomeSnapshot = "SNAPSHOT"
	outcomeFenced   = "FENCED"
	outcomeAborted  = "ABORTED"
	outcomeRepacked = "REPACKED"
)

// Session writes chunks and, at the end, commits. Everything a session uploads is invisible until Commit returns.
type Session struct {
	repo   *Repo
	opt    SessionOptions
	sid    string
	view   *View
	sealer *keys.Sealer
	data   packer
	meta   packer
	full   chan *filled // packs on their way to the uploaders
	spare  chan *pack.Builder
	book   book
	notes  *notes

	goingWAL  keyRanges       // archived WAL that no snapshot needed when the view was loaded
	saw       map[string]bool // sessions that had an outcome that counted when the view was loaded
	leftovers []leftover      // packs of data that unfinished sessions left; final when fn of Write begins

	segments    chan struct{} // holds one token while a segment is written
	unpublished error         // why one could not be written; the token's

	publishing sync.Mutex // guards what the index says of packs against what the segment under way will say
	segment    uint32     // the number in the local index of the segment under way
	begun      bool       // it has one
}

// Write runs fn with a new session (W0 to W3 of docs/protocol.md). A session that ends without
// Commit leaves no snapshot; what it uploaded is published as far as possible, so that the next session finds it.
// ErrFenced, from Commit: a prune has ended the session; what is in the view of a new one need not be read again.
// keys.ErrOrigin, before fn, or from Commit: the key may not commit this, or not any more.
func (r *Repo) Write(ctx context.Context, o SessionOptions, fn func(ctx context.Context, s *Session) error) (err error) {
	if err := r.mayCommit(ctx, o); err != nil {
		return err
	}
	s, err := r.announce(ctx, o, false)
	if err != nil {
		return err
	}
	var l *listing
	if s.view, l, err = r.openView(ctx, o.CacheDir, o.Cluster, forWriting); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.view.Close()) }()
	s.book.last = o.Now()
	s.goingWAL = l.run.goingWAL()
	s.saw = map[string]bool{}
	for sid, keys := range l.outcomes {
		s.saw[sid] = slices.ContainsFunc(keys, func(key string) bool { return l.run.counts(key, l.sessions) })
	}
	if err := s.adopt(ctx, l); err != nil {
		return err
	}

	up, upCtx := errgroup.WithContext(ctx)
	for range uploaders {
		up.Go(func() error { return s.upload(upCtx) })
	}
	done := make(chan struct{})
	up.Go(func() error { return s.stayAlive(upCtx, done) })
	err = fn(upCtx, s)
	close(s.full)
	close(done)
	if upErr := up.Wait(); upErr != nil {
		err = upErr // the cause; fn saw only that the context had ended
	}
	if err != nil && !s.book.committed {
		s.leave(ctx)
	}
	if err == nil && s.book.committed {
		s.sweepNotes()
	}
	return err
}

// stayAlive publishes a segment at least every ten minutes, empty if need be: who is silent for long is taken for dead.
func (s *Session) stayAlive(ctx context.Context, done <-chan struct{}) error {
	ticker := time.NewTicker(publishAfter)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return nil // somebody else knows why
		case <-ticker.C:
			select {
			case <-done: // at the same moment
				return nil
			default:
			}
			if err := s.publish(ctx, always); err != nil {
				return err
			}
		}
	}
}

// announce creates sessions/<sid> (W0). The object is put once: a request that is in doubt may still arrive after a prune has deleted
// what the next one made, and would bring a session back that is over. So who cannot know whether it was created takes a new ID, and looks
// for the newest run again. What the other one left, if anything, is a session that does nothing, and is fenced like any that is dead.
func (r *Repo) announce(ctx context.Context, o SessionOptions, repack bool) (*Session, error) {
	for tries := 1; ; tries++ {
		s, err := r.announceOnce(ctx, o, repack)
		if err == nil || tries == announceTries || !inDoubt(ctx, err) {
			return s, err
		}
		select {
		case <-time.After(announcePause * time.Duration(tries-1)): // the first time at once: what is in doubt has mostly taken its time
		case <-ctx.Done():
			return nil, err
		}
	}
}

const (
	announceTries = 5
	announcePause = time.Second // more with each try
)

// OncePut says of which keys a Put must not be sent a second time, whatever became of the first: see announce.
func OncePut(key string) bool { return strings.HasPrefix(key, sessionsPrefix) }

// doubtError is a failure of a Put that must not be tried again.
type doubtError struct{ err error }

func (e *doubtError) Error() string { return "announce session: " + e.err.Error() }
func (e *doubtError) Unwrap() error { return e.err }

// inDoubt says whether err leaves open if a session was announced. A clear no is not going to change.
func inDoubt(ctx context.Context, err error) bool {
	var doubt *doubtError
	if ctx.Err() != nil || !errors.As(err, &doubt) {
		return false
	}
	for _, no := range []error{storage.ErrDenied, storage.ErrFull, storage.ErrReadOnly, storage.ErrKey} {
		if errors.Is(err, no) {
			return false
		}
	}
	return true
}

func (r *Repo) announceOnce(ctx context.Context, o SessionOptions, repack bool) (*Session, error) {
	gc, err := r.newestNumber(ctx)
	if err != nil {
		return nil, err
	}
	now := o.Now().UTC()
	sid := now.Format("20060102T150405Z") + "-" + newID()
	sealer, err := r.bundle.DataSealer(r.config.ID, sid)
	if err != nil {
		return nil, err
	}
	a := announcement{Version: 1, Cluster: o.Cluster, Host: o.Host, PID: os.Getpid(), Started: now, GC: gc, Repack: repack, Nonce: newNonce()}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	key := sessionsPrefix + sid
	if err := r.store.Put(ctx, key, r.seal(kindSession, key, text)); err != nil {
		return nil, &doubtError{err}
	}
	s := &Session{repo: r, opt: o, sid: sid, sealer: sealer, full: make(chan *filled), spare: make(chan *pack.Builder, uploaders),
		notes: newNotes(r.IDKey()), segments: make(chan struct{}, 1)}
	s.data = packer{kind: pack.Data, session: s}
	s.meta = packer{kind: pack.Meta, session: s}
	s.book.pending = map[chunk.ID]struct{}{}
	return s, nil
}

func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// MetaChunk returns the verified bytes of a metadata chunk of the view.
func (s *Session) MetaChunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	return s.view.MetaChunk(ctx, id)
}

// PageDigests is that of the session's view.
func (s *Session) PageDigests(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, digests []chunk.Prefix) error) error {
	return s.view.PageDigests(ctx, ids, each)
}

// ChunkSize returns the plain bytes of a chunk of the view. ErrMissing.
func (s *Session) ChunkSize(id chunk.ID) (int64, error) {
	loc, err := s.view.Locate(id)
	return int64(loc.Plain), err
}

// ID returns the session's ID, which is the ID of the snapshot that it commits.
func (s *Session) ID() string { return s.sid }

func (s *Session) outcomeKey() string { return snapshotsPrefix + s.opt.Cluster + "/" + s.sid }

func (s *Session) segmentKey(n int) string { return fmt.Sprintf("%s%s/%d", indexPrefix, s.sid, n) }

// Flush uploads every chunk written so far and publishes the index segment that names them (W3). All writers must be
// idle. Afterwards Added is final unless more is written.
func (s *Session) Flush(ctx context.Context) error {
	for _, p := range []*packer{&s.data, &s.meta} {
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	if err := s.book.wait(ctx); err != nil {
		return err
	}
	return s.publish(ctx, whatThereIs)
}

// Commit makes manifest the session's outcome (W4, W5). ErrFenced: a prune ended the session first.
func (s *Session) Commit(ctx context.Context, manifest []byte) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	key := s.outcomeKey()
	o := outcome{Version: 1, Outcome: outcomeSnapshot, Nonce: newNonce(), Manifest: manifest}
	if err := s.repo.end(ctx, key, &o); err != nil {
		return fmt.Errorf("commit %s: %w", key, err)
	}
	s.book.committed = true
	err := s.confirm(ctx)
	if err == nil {
		err = s.confirmKey(ctx)
	}
	if err != nil {
		return fmt.Errorf("confirm commit of %s: %w", s.sid, err)
	}
	return nil
}

// end creates a session's outcome. ErrFenced: it has another one already.
func (r *Repo) end(ctx context.Context, key string, o *outcome) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	// That a session ended otherwise than by a snapshot all groups must know.
	err = r.store.Put(ctx, key, r.sealFor(kindOutcome, o.Outcome != outcomeSnapshot, key, text))
	if err == nil || errors.Is(err, storage.ErrNotDurable) {
		return err
	}
	// Taken, or our own answer was lost: the nonce tells. A fence may be gone already: the prune that resolves the session deletes it.
	there, readErr := r.outcome(ctx, key)
	switch {
	case errors.Is(readErr, storage.ErrNotExist) && errors.Is(err, storage.ErrExist):
		return ErrFenced
	case readErr != nil:
		return inDispute(err, readErr)
	case there.Nonce != o.Nonce:
		return ErrFenced
	}
	return nil
}

// inDispute is what to say of a Put that failed with err, where reading what stands under the name failed too: that the name is taken says
// nothing as long as it is not known by whom.
func inDispute(err, readErr error) error {
	if errors.Is(err, storage.ErrExist) {
		return readErr
	}
	return err
}

// confirm makes sure that the commit counts (W5). A session that is gone was fenced, and its outcome deleted too, before the
// commit created it anew; or a prune has seen the commit already, and says so.
func (s *Session) confirm(ctx context.Context) error {
	_, err := s.repo.get(ctx, kindSession, sessionsPrefix+s.sid)
	if err == nil || !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	run, err := s.repo.newestRun(ctx)
	if err != nil {
		return err
	}
	if !run.valid[s.outcomeKey()] {
		s.book.committed = false
		return ErrFenced
	}
	return nil
}

// leave publishes what is already durable, for the next session to use. It is what a person who pressed Ctrl-C would
// want, so it goes on for a moment after ctx has ended; a failure changes nothing that matters.
func (s *Session) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = s.publish(ctx, whatThereIs)
}

// occasion is why an index segment is published, or not.
type occasion int

const (
	whenDue     occasion = iota // if ten minutes have passed, or packs enough are waiting
	whatThereIs                 // if any pack waits
	always                      // as a sign of life
)

// publish writes an index segment for the packs that have none (W3). When it returns nil for whatThereIs, every pack noted before the
// call is named by a segment that is durable, whoever wrote it.
func (s *Session) publish(ctx context.Context, why occasion) error {
	select {
	case s.segments <- struct{}{}:
		defer func() { <-s.segments }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.unpublished != nil {
		return s.unpublished // packs that no segment names must not be committed
	}
	s.publishing.Lock()
	segment, n := s.book.take(why, s.opt.Now())
	number, named := s.segment, s.begun
	if segment != nil {
		s.begun = false
	}
	s.publishing.Unlock()
	if segment == nil {
		return nil
	}
	s.unpublished = s.writeSegment(ctx, segment, n, number, named)
	return s.unpublished
}

// writeSegment publishes the session's n-th segment. named says that the local index has its packs under number.
func (s *Session) writeSegment(ctx context.Context, segment *index.Segment, n int, number uint32, named bool) error {
	text, err := segment.Marshal()
	if err != nil {
		return err
	}
	key := s.segmentKey(n)
	object := s.repo.seal(kindIndex, key, text)
	if err := s.repo.store.Put(ctx, key, object); err != nil {
		return fmt.Errorf("publish index: %w", err)
	}
	s.book.count(len(object))
	if !named {
		return nil
	}
	if err := s.view.finish(number, key); err != nil {
		return fmt.Errorf("note index segment: %w", err)
	}
	return nil
}

// Added is what a session has stored, in bytes.
type Added struct {
	Stored int64 // packs and index segments
	Meta   int64 // the part of Stored that is packs of metadata and index segments
	Plain  int64 // of the chunks, before they were compressed
}

// Added returns what the session has stored so far.
func (s *Session) Added() Added { return s.book.added() }
