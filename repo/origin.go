package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// Refused says whether the object is a snapshot that whoever made it was not entitled to make: Err wraps keys.ErrOrigin and says who claimed what. It is
// shown, and nothing else: it is restored by nobody, no other snapshot builds on it, and for policies it does not exist. Its Manifest is nil unless a key
// of the repository has signed it.
func (c *Commit) Refused() bool { return errors.Is(c.Err, keys.ErrOrigin) }

// take reads the outcome under key into c, and says which it is; "" if that is not known, as where it is damaged: Err says why. Errors: storage.ErrNotExist;
// keys.ErrForeign; others than the object's own.
func (r *Repo) take(ctx context.Context, key string, c *Commit) (kind string, err error) {
	o, err := r.outcome(ctx, key)
	switch {
	case errors.Is(err, keys.ErrOrigin):
		c.Err = fmt.Errorf("%w: it is signed by no key of this repository", keys.ErrOrigin)
		return "", nil
	case isLoss(err): // also of a version that nobody has made yet: anybody can write such a byte
		c.Err = err
		return "", nil
	case err != nil:
		return "", err
	}
	c.Manifest, c.Group = o.Manifest, o.group
	if o.Outcome == outcomeSnapshot {
		c.Err, err = r.refusal(ctx, key, o)
	}
	return o.Outcome, err
}

// refusal says why a snapshot does not count whose signature is good: because of who signed it. It wraps keys.ErrOrigin; nil: nothing speaks against it.
func (r *Repo) refusal(ctx context.Context, key string, o *outcome) (why, err error) {
	if !r.signed() {
		return nil, nil
	}
	ring, err := r.keyring(ctx)
	if err != nil {
		return nil, err
	}
	if gone := ring.removed[o.by.Entry]; gone != nil {
		if vouchedFor(gone.Accepted, key, o.sum) {
			return nil, nil // its other claims an owner has looked at
		}
		return errRemoved(o.by), nil
	}
	if o.by.Role != keys.Owner && (o.common || o.by.Group != o.group) {
		return fmt.Errorf("%w: key %q (%s) is of trust group %s, and the snapshot is not", keys.ErrOrigin, o.by.Name, o.by.Entry, keys.ShowGroup(o.by.Group)), nil
	}
	host, ok := originHost(o.Manifest)
	if !ok { // no reader makes anything of it, and so it claims nothing
		host = o.by.Name
	}
	claimed := func(all []vouched) bool { return vouchedFor(all, key, o.sum) }
	return r.objection(ctx, ring, o.by, outcomeCluster(key), host, claimed)
}

// objection says why a key may not make a snapshot of that cluster and host; nil if it may. known says whether a list of those that stood there before the host's
// name was a key's has it.
func (r *Repo) objection(ctx context.Context, ring *keyring, by *keys.Certificate, cluster, host string, known func([]vouched) bool) (why, err error) {
	if !by.MayWrite(cluster) {
		return fmt.Errorf("%w: key %q (%s) may not write snapshots of cluster %s", keys.ErrOrigin, by.Name, by.Entry, cluster), nil
	}
	if by.Role == keys.Owner || sameHost(host, by.Name) {
		return nil, nil
	}
	if sameHost(host, "") {
		return fmt.Errorf("%w: key %q (%s) does not say of which host it is", keys.ErrOrigin, by.Name, by.Entry), nil
	}
	all, err := r.holders(ctx, ring)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if sameHost(host, e.Name) && !known(e.Claimed) {
			return fmt.Errorf("%w: key %q (%s) says that it is of host %q, for which there is another key (%s)", keys.ErrOrigin, by.Name, by.Entry, host, e.Entry), nil
		}
	}
	for entry, gone := range ring.removed {
		if gone.Name == "" || !sameHost(host, gone.Name) {
			continue
		}
		e, err := r.former(ctx, ring, entry)
		if err != nil {
			return nil, err
		}
		if e != nil && !known(e.Claimed) {
			return fmt.Errorf("%w: key %q (%s) says that it is of host %q, for which there was another key (%s)", keys.ErrOrigin, by.Name, by.Entry, host, entry), nil
		}
	}
	return nil, nil
}

// former reads who had a key that is removed; nil where nothing believable says so. A name goes on to be that key's: what was refused for its sake, and what
// prunes have kept nothing for, must not count all at once.
func (r *Repo) former(ctx context.Context, ring *keyring, entry string) (*entryRecord, error) {
	ring.mu.Lock()
	defer ring.mu.Unlock()
	if e, known := ring.former[entry]; known {
		return e, nil
	}
	e, err := getRecord[entryRecord](ctx, r, entry, entrySuffix)
	if err != nil && !errors.Is(err, storage.ErrNotExist) && !unbelievable(err) {
		return nil, err
	}
	ring.former[entry] = e
	return e, nil
}

// sameHost says whether two names are one to people, and to name servers.
func sameHost(a, b string) bool {
	plain := func(name string) string { return strings.Trim(name, ". \t\r\n") }
	return strings.EqualFold(plain(a), plain(b))
}

func errRemoved(by *keys.Certificate) error {
	return fmt.Errorf("%w: key %q (%s), which signed it, was removed", keys.ErrOrigin, by.Name, by.Entry)
}

func errRemoving(by *keys.Certificate) error {
	return fmt.Errorf("%w: key %q (%s) is being removed, and whether the snapshot counts is not known yet", keys.ErrOrigin, by.Name, by.Entry)
}

// originHost is where a manifest says that its snapshot was made; "" if it does not say. false: it is no manifest.
func originHost(manifest json.RawMessage) (host string, ok bool) {
	var m struct {
		Origin struct {
			Host string `json:"host"`
		} `json:"origin"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return "", false
	}
	return m.Origin.Host, true
}

// mayCommit says at once what would be said of the session's snapshot at the end: keys.ErrOrigin.
func (r *Repo) mayCommit(ctx context.Context, o SessionOptions) error {
	if !r.signed() {
		return nil
	}
	by := r.bundle.Certificate()
	ring, err := r.keyring(ctx)
	if err != nil {
		return err
	}
	switch {
	case ring.removed[by.Entry] != nil:
		return errRemoved(by)
	case ring.removing[by.Entry]:
		return errRemoving(by)
	}
	why, err := r.objection(ctx, ring, by, o.Cluster, o.Host, func([]vouched) bool { return false })
	return errors.Join(why, err)
}

// distrust is what writers do not go by any more: what keys have stored that are removed. A key whose place another took is none of these: nobody takes it for stolen.
type distrust struct {
	entries  map[string]bool // of these keys. What their index segments say of chunks is not believed
	sessions map[string]bool // that they have signed, as far as an owner saw. Where a run has taken such segments into the base, the packs show by their names
}

// distrusted gives that; nil where no key is removed.
func (r *Repo) distrusted(ctx context.Context) (*distrust, error) {
	if !r.signed() {
		return nil, nil
	}
	ring, err := r.keyring(ctx)
	if err != nil {
		return nil, err
	}
	d := &distrust{entries: map[string]bool{}, sessions: map[string]bool{}}
	for entry, gone := range ring.removed {
		if gone.Rotated {
			continue
		}
		d.entries[entry] = true
		for _, v := range gone.Accepted {
			d.sessions[v.ID] = true
		}
	}
	if len(d.entries) == 0 {
		return nil, nil
	}
	return d, nil
}

// signer says whether a segment is by one of these keys.
func (d *distrust) signer(entry string) bool { return d != nil && d.entries[entry] }

// pack says whether a pack is of one of these sessions.
func (d *distrust) pack(key string) bool {
	if d == nil {
		return false
	}
	p, ok := parsePackKey(key)
	return ok && d.sessions[p.sid]
}

// confirmKey makes sure that the session's key was not removed before the commit: an owner says first that it is being removed, then looks which of its
// snapshots are there. So what was there before that was said counts. And that nobody was given the host's name meanwhile, by an owner who has not seen the snapshot.
func (s *Session) confirmKey(ctx context.Context) error {
	r := s.repo
	if !r.signed() {
		return nil
	}
	by := r.bundle.Certificate()
	ring, err := r.keyring(ctx)
	if err != nil {
		return err
	}
	names, err := listKeys(ctx, r.store)
	if err != nil {
		return err
	}
	for _, entry := range names.with(entrySuffix) {
		if !ring.names.records[entry][entrySuffix] {
			return s.confirmAnew(ctx)
		}
	}
	found := names.records[by.Entry]
	if found[removedSuffix] {
		gone, err := getRecord[removedRecord](ctx, r, by.Entry, removedSuffix)
		if err == nil {
			o, err := r.outcome(ctx, s.outcomeKey())
			if err != nil || vouchedFor(gone.Accepted, s.outcomeKey(), o.sum) {
				return err
			}
			return errRemoved(by)
		}
		if !unbelievable(err) {
			return err
		}
	}
	if found[removingSuffix] {
		_, err := getRecord[removingRecord](ctx, r, by.Entry, removingSuffix)
		switch {
		case err == nil || errors.Is(err, storage.ErrNotExist):
			return errRemoving(by)
		case !unbelievable(err):
			return err
		}
	}
	return nil
}

// confirmAnew asks what a reader would say of the session's snapshot, by the keys that there are now.
func (s *Session) confirmAnew(ctx context.Context) error {
	r := s.repo
	ring, err := r.freshKeyring(ctx)
	if err != nil {
		return err
	}
	o, err := r.outcome(ctx, s.outcomeKey())
	if err != nil {
		return err
	}
	why, err := r.refusal(ctx, s.outcomeKey(), o)
	if by := r.bundle.Certificate(); err == nil && why == nil && ring.removed[by.Entry] == nil && ring.removing[by.Entry] {
		why = errRemoving(by)
	}
	return errors.Join(why, err)
}

// unbelievable says of an error that a record says nothing: it is damaged, or no owner has made it.
func unbelievable(err error) bool {
	return isLoss(err) || errors.Is(err, keys.ErrOrigin) || isForeign(err)
}
