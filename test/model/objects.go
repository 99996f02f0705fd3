package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/storage"
)

// objects reads what is stored, each object once.
type objects struct {
	image *image
	store storage.Store
	there map[string]bool
	read  map[string]any // what was read of an object, by key
}

// run is what gc/<n> says.
type run struct {
	Number uint64
	Valid  []struct{ ID string }
	// Expired are the snapshots that the run ended.
	Expired          []struct{ ID string }
	Resolved         []string
	Bases            []struct{ Key string }
	Sweep, Condemned []string
}

func (r *run) bases() (keys []string) {
	for _, b := range r.Bases {
		keys = append(keys, b.Key)
	}
	return keys
}

// ending is an outcome.
type ending struct {
	Outcome  string
	Manifest json.RawMessage
	needs    []chunk.ID // of a snapshot
	wal      walOf      // likewise
	cluster  string
}

// state is what decides which snapshots count, at one moment.
type state struct {
	run                       *run
	valid, expired, resolved  map[string]bool
	sessions                  map[string]bool
	outcomes                  map[string]*ending
	segments, packs, requests []string
}

// counts is the rule: the newest run lists the snapshot, or its session is there and no run has resolved it.
func (s *state) counts(sid string) bool {
	e := s.outcomes[sid]
	return e != nil && e.Outcome == "SNAPSHOT" && (s.valid[sid] || s.sessions[sid] && !s.resolved[sid])
}

// returns says whether the next run would let the snapshot count again if it were pinned.
func (s *state) returns(sid string) bool { return s.expired[sid] && s.outcomes[sid] != nil }

func (o *objects) changed(key string, there bool) {
	delete(o.read, key)
	if there {
		o.there[key] = true
	} else {
		delete(o.there, key)
	}
}

// state reads everything but the index and the packs.
func (o *objects) state(ctx context.Context) (*state, error) {
	s := &state{run: &run{}, valid: map[string]bool{}, expired: map[string]bool{}, resolved: map[string]bool{},
		sessions: map[string]bool{}, outcomes: map[string]*ending{}}
	newest := ""
	for key := range o.there {
		top, rest, _ := strings.Cut(key, "/")
		switch top {
		case "gc":
			newest = max(newest, key)
		case "sessions":
			s.sessions[rest] = true
		case "index":
			s.segments = append(s.segments, key)
		case "packs":
			s.packs = append(s.packs, key)
		case "forget", "pins":
			s.requests = append(s.requests, key)
		case "snapshots":
			e, err := o.ending(ctx, key)
			if err != nil {
				return nil, err
			}
			s.outcomes[rest[strings.IndexByte(rest, '/')+1:]] = e
		}
	}
	if newest == "" {
		return s, nil
	}
	var err error
	if s.run, err = o.run(ctx, newest); err != nil {
		return nil, err
	}
	for _, v := range s.run.Valid {
		s.valid[v.ID] = true
	}
	for _, e := range s.run.Expired {
		s.expired[e.ID] = true
	}
	for _, sid := range s.run.Resolved {
		s.resolved[sid] = true
	}
	return s, nil
}

// findable gives the chunks that a reader can find: a base or a segment that counts names a pack that holds them.
func (o *objects) findable(ctx context.Context, s *state) (map[chunk.ID]bool, error) {
	found := map[chunk.ID]bool{}
	names := s.run.bases()
	for _, key := range s.segments {
		sid := strings.Split(key, "/")[1]
		if s.sessions[sid] && !s.resolved[sid] {
			names = append(names, key)
		}
	}
	for _, key := range names {
		if !o.there[key] {
			continue // the oracle has said so
		}
		seg, err := o.segment(ctx, key)
		if err != nil {
			return nil, err
		}
		for i := range seg.Packs {
			p := &seg.Packs[i]
			if !o.there[p.Key] {
				continue
			}
			held, err := o.held(ctx, p.Key)
			if err != nil {
				return nil, err
			}
			for j := range p.Entries {
				id := p.Entries[j].ID
				found[id] = found[id] || slices.Contains(held, id)
			}
		}
	}
	return found, nil
}

// whereabouts says what became of a chunk that cannot be found.
func (o *objects) whereabouts(ctx context.Context, id chunk.ID) string {
	for _, key := range slices.Sorted(maps.Keys(o.there)) {
		if !strings.HasPrefix(key, "packs/") {
			continue
		}
		if held, err := o.held(ctx, key); err == nil && slices.Contains(held, id) {
			return "stands in " + key + ", where no reader finds it"
		}
	}
	return "is in no pack"
}

// once reads an object with parse, and remembers the result.
func once[T any](ctx context.Context, o *objects, key string, parse func(b []byte) (T, error)) (v T, err error) {
	if v, ok := o.read[key].(T); ok {
		return v, nil
	}
	b, err := o.store.Get(ctx, key, storage.Range{}, nil)
	if err != nil {
		return v, err
	}
	if v, err = parse(b); err == nil {
		o.read[key] = v
	}
	return v, err
}

// unseal opens an object that is sealed as a whole.
func (o *objects) unseal(key string, b []byte) ([]byte, error) {
	const head = 8 + keys.TagSize
	if len(b) < head {
		return nil, fmt.Errorf("%s has %d bytes", key, len(b))
	}
	aad := fmt.Appendf(nil, "pgtrove object\x00%s\x00%s\x00%s", b[:head], o.image.config.ID, key)
	plain, err := o.image.meta.Open(nil, b[head:], aad)
	if kind := string(b[:7]); err == nil && (kind == "pgtindx" || kind == "pgtsnap") {
		_, plain, err = o.image.bundle.OpenSigned(aad, plain)
	}
	return plain, err
}

func (o *objects) unsealJSON(key string, b []byte, v any) error {
	text, err := o.unseal(key, b)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func (o *objects) run(ctx context.Context, key string) (*run, error) {
	return once(ctx, o, key, func(b []byte) (*run, error) {
		r := &run{}
		return r, o.unsealJSON(key, b, r)
	})
}

func (o *objects) ending(ctx context.Context, key string) (*ending, error) {
	return once(ctx, o, key, func(b []byte) (*ending, error) {
		e := &ending{}
		e.cluster = strings.Split(key, "/")[1]
		if err := o.unsealJSON(key, b, e); err != nil || e.Outcome != "SNAPSHOT" {
			return e, err
		}
		var err error
		if e.wal, err = parseWAL(e.Manifest); err != nil {
			return e, err
		}
		listing, err := parseManifest(e.Manifest)
		if err == nil {
			e.needs, err = o.image.needs(listing)
		}
		return e, err
	})
}

func (o *objects) segment(ctx context.Context, key string) (*index.Segment, error) {
	return once(ctx, o, key, func(b []byte) (*index.Segment, error) {
		text, err := o.unseal(key, b)
		if err != nil {
			return nil, err
		}
		return index.Parse(text)
	})
}

// held gives the chunks in a pack, by its own account.
func (o *objects) held(ctx context.Context, key string) ([]chunk.ID, error) {
	return once(ctx, o, key, func(b []byte) ([]chunk.ID, error) {
		name := key[:strings.LastIndexByte(key, '-')]
		dir, err := pack.OpenDirectory(b, int64(len(b)), o.image.meta, fmt.Appendf(nil, "pgtrove pack\x00%s\x00%s", o.image.config.ID, name))
		if err != nil {
			return nil, err
		}
		var ids []chunk.ID
		for i := range dir.Entries {
			ids = append(ids, dir.Entries[i].ID)
		}
		return ids, nil
	})
}

// describe says in short what an object says, for the trace.
func (o *objects) describe(ctx context.Context, key string) string {
	top, _, _ := strings.Cut(key, "/")
	if !o.there[key] {
		return ""
	}
	var what any
	var err error
	switch top {
	case "gc":
		what, err = o.run(ctx, key)
	case "snapshots":
		var e *ending
		if e, err = o.ending(ctx, key); err == nil {
			return fmt.Sprintf("(%s %s)", e.Outcome, o.image.letters(e.needs))
		}
	case "sessions":
		text := map[string]any{}
		var b []byte
		if b, err = o.store.Get(ctx, key, storage.Range{}, nil); err == nil {
			err = o.unsealJSON(key, b, &text)
		}
		return fmt.Sprintf("(saw run %v) %v", text["gc"], errText(err))
	case "packs":
		var ids []chunk.ID
		if ids, err = o.held(ctx, key); err == nil {
			return "(" + o.image.letters(ids) + ")"
		}
	case "index", "base":
		var seg *index.Segment
		if seg, err = o.segment(ctx, key); err == nil {
			s := ""
			for i := range seg.Packs {
				s += " " + seg.Packs[i].Key
			}
			return "(" + strings.TrimSpace(s) + ")"
		}
	default:
		return ""
	}
	if err != nil {
		return err.Error()
	}
	text, err := json.Marshal(what)
	return string(bytes.TrimSpace(text)) + errText(err)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
