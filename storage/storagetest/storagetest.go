// Package storagetest is the suite that every storage driver and decorator passes.
//
// It tests what storage.Store promises, through its four methods only; what is particular to a driver is tested
// beside the driver.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// Run tests the stores that open gives: one new store per call, empty or with nothing but storage.ConfigKey in it, which the
// suite leaves alone. open registers its own cleanup.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"an object comes back as it was put", testRoundTrip},
		{"any range of an object can be read", testRanges},
		{"Get appends to the buffer it is given", testGetAppends},
		{"the caller may reuse its buffer after Put", testPutKeepsNothing},
		{"an absent object is ErrNotExist", testAbsent},
		{"a second Put is refused and changes nothing", testCreateOnly},
		{"of racing Puts exactly one wins", testRace},
		{"readers of a key being put see all or nothing", testPutIsAtomic},
		{"a listing is in byte order of whole keys", testListOrder},
		{"a prefix need not end at a slash", testListPrefix},
		{"thousands are listed completely", testListThousands},
		{"an error of the callback ends the listing", testListCallbackError},
		{"the callback may use the store", testListReentrant},
		{"a listing tells sizes and times", testListInfo},
		{"Delete removes, and is content with an absent object", testDelete},
		{"a key can be put again after Delete", testPutAfterDelete},
		{"objects come and go beside a listing", testListBesideChanges},
		{"a cancelled context is an error of every verb, not an empty answer", testCancelled},
		{"a listing stops when its context ends", testCancelDuringList},
		{"invalid keys are refused by every verb", testInvalidKeys},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(t, &suite{open(t), t})
		})
	}
}

// suite is a store whose methods fail the test when they fail.
type suite struct {
	storage.Store
	t *testing.T
}

func (s *suite) put(key, data string) {
	s.t.Helper()
	if err := s.Put(s.t.Context(), key, []byte(data)); err != nil {
		s.t.Fatalf("Put: %v", err)
	}
}

func (s *suite) want(key, data string) {
	s.t.Helper()
	got, err := s.Get(s.t.Context(), key, storage.Range{}, nil)
	if err != nil {
		s.t.Fatalf("Get: %v", err)
	}
	if string(got) != data {
		s.t.Fatalf("Get %s: %d bytes %.40q, want %d bytes %.40q", key, len(got), got, len(data), data)
	}
}

func (s *suite) wantErr(what string, err, want error) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// list gives the keys under prefix, but not config.
func (s *suite) list(prefix string) []string {
	s.t.Helper()
	keys := []string{}
	err := s.List(s.t.Context(), prefix, func(i storage.Info) error {
		if i.Key != storage.ConfigKey {
			keys = append(keys, i.Key)
		}
		return nil
	})
	if err != nil {
		s.t.Fatalf("List %q: %v", prefix, err)
	}
	return keys
}

func (s *suite) wantList(prefix string, want ...string) {
	s.t.Helper()
	if got := s.list(prefix); !slices.Equal(got, append([]string{}, want...)) {
		s.t.Fatalf("List %q:\n got %q\nwant %q", prefix, got, want)
	}
}

func testRoundTrip(t *testing.T, s *suite) {
	for key, data := range map[string]string{
		"empty":  "",
		"a/b/c":  "x",
		"a/big":  string(pattern(9<<20 + 17)),
		"a.b_-Z": "\x00\xff",
	} {
		s.put(key, data)
		s.want(key, data)
	}
}

func testRanges(t *testing.T, s *suite) {
	const size = 100
	data := pattern(size)
	s.put("x/object", string(data))
	s.put("x/empty", "")
	for _, off := range []int64{0, 1, 50, 99, 100, 101, 1 << 40, -1, -50, -99, -100, -101, -1 << 40, -1 << 63} {
		for _, n := range []int64{0, 1, 49, 50, 51, 100, 101, 1 << 40, 1<<63 - 1} {
			r := storage.Range{Off: off, Len: n}
			// Computed in another way than Range.Resolve does.
			var want []byte
			for i := range int64(size) {
				from := off
				if off < 0 {
					from = max(0, off+size)
				}
				if i >= from && (n == 0 || i-from < n) {
					want = append(want, data[i])
				}
			}
			got, err := s.Get(t.Context(), "x/object", r, nil)
			if err != nil {
				t.Fatalf("Get %+v: %v", r, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("Get %+v: %d bytes, want %d", r, len(got), len(want))
			}
			if got, err := s.Get(t.Context(), "x/empty", r, nil); err != nil || len(got) != 0 {
				t.Fatalf("Get %+v of an empty object: %d bytes, %v", r, len(got), err)
			}
		}
	}
}

func testGetAppends(t *testing.T, s *suite) {
	s.put("k", "world")
	s.put("empty", "")
	for key, r := range map[string]storage.Range{"k": {Off: 5}, "empty": {Off: -3}} {
		got, err := s.Get(t.Context(), key, r, []byte("hello "))
		if err != nil || string(got) != "hello " {
			t.Fatalf("Get %s %+v, where nothing is: %q, %v", key, r, got, err)
		}
	}
	for _, room := range []int{0, 3, 5, 100} {
		dst := append(make([]byte, 0, 6+room), "hello "...)
		got, err := s.Get(t.Context(), "k", storage.Range{}, dst)
		if err != nil || string(got) != "hello world" {
			t.Fatalf("with room for %d: %q, %v", room, got, err)
		}
		if room >= 5 && &got[0] != &dst[0] {
			t.Errorf("with room for %d: the buffer was not used", room)
		}
		if string(dst) != "hello " {
			t.Errorf("the caller's bytes became %q", dst)
		}
	}
}

func testPutKeepsNothing(t *testing.T, s *suite) {
	data := []byte("before")
	if err := s.Put(t.Context(), "k", data); err != nil {
		t.Fatal(err)
	}
	copy(data, "after!")
	s.want("k", "before")
	got, err := s.Get(t.Context(), "k", storage.Range{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	copy(got, "after!")
	s.want("k", "before")
}

func testAbsent(t *testing.T, s *suite) {
	s.put("dir/object", "x")
	for _, key := range []string{"absent", "dir/absent", "dir", "no/such/dir", "dir/object/below"} {
		_, err := s.Get(t.Context(), key, storage.Range{}, nil)
		s.wantErr("Get "+key, err, storage.ErrNotExist)
	}
	s.wantList("absent")
	s.wantList("absent/")
	s.wantList("dir/object/")
}

func testCreateOnly(t *testing.T, s *suite) {
	s.put("a/k", "first")
	for _, data := range []string{"second", "first", ""} {
		s.wantErr("second Put", s.Put(t.Context(), "a/k", []byte(data)), storage.ErrExist)
	}
	s.want("a/k", "first")
	s.wantList("", "a/k")
}

func testListOrder(t *testing.T, s *suite) {
	keys := []string{"a-b", "a.b/x", "a/b", "a/b-c", "a/b0", "a/c/d", "a0", "a00", "ab", "b/1", "b/10", "b/2", "B", "_z"}
	for _, i := range []int{7, 3, 12, 0, 5, 9, 1, 13, 2, 11, 4, 10, 6, 8} {
		s.put(keys[i], "x")
	}
	slices.Sort(keys)
	s.wantList("", keys...)
	s.wantList("a/", "a/b", "a/b-c", "a/b0", "a/c/d")
}

func testListPrefix(t *testing.T, s *suite) {
	for _, key := range []string{"packs/2026a/1", "packs/2026a/2", "packs/2026b/1", "packs/2027/1", "packs-x", "pack"} {
		s.put(key, "x")
	}
	s.wantList("packs/2026", "packs/2026a/1", "packs/2026a/2", "packs/2026b/1")
	s.wantList("packs/2026a", "packs/2026a/1", "packs/2026a/2")
	s.wantList("packs/2026a/2", "packs/2026a/2")
	s.wantList("packs", "packs-x", "packs/2026a/1", "packs/2026a/2", "packs/2026b/1", "packs/2027/1")
	s.wantList("packs/", "packs/2026a/1", "packs/2026a/2", "packs/2026b/1", "packs/2027/1")
	s.wantList("pack-")
	s.wantList("packs/2026a/2/")
	s.wantList("p/")
}

func testListThousands(t *testing.T, s *suite) {
	const workers, each = 8, 263 // more than two pages of an object storage's listing
	want := make([]string, 0, workers*each)
	for i := range workers * each {
		want = append(want, fmt.Sprintf("wal/%02d/%04d", i%7, i))
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(want, each) {
		wg.Go(func() {
			for _, key := range part {
				if err := s.Put(t.Context(), key, []byte(key)); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.put("wam", "not below")
	slices.Sort(want)
	s.wantList("wal/", want...)
	for _, at := range []int{999, 1000, 1001, 2000} { // where a page ends, an end of the context must not look like the listing's
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := s.List(ctx, "wal/", func(storage.Info) error {
			if n++; n == at {
				cancel()
			}
			return nil
		})
		cancel()
		s.wantErr(fmt.Sprintf("List, cancelled at object %d", at), err, context.Canceled)
	}
}

func testListCallbackError(t *testing.T, s *suite) {
	for i := range 10 {
		s.put(fmt.Sprintf("d%d/k", i), "x")
	}
	boom := errors.New("boom")
	calls := 0
	err := s.List(t.Context(), "d", func(storage.Info) error {
		calls++
		if calls == 4 {
			return boom
		}
		return nil
	})
	if err != boom || calls != 4 {
		t.Fatalf("error %v after %d calls, want the callback's own after 4", err, calls)
	}
}

func testListReentrant(t *testing.T, s *suite) {
	for i := range 5 {
		s.put(fmt.Sprintf("k/%d", i), "x")
	}
	err := s.List(t.Context(), "k/", func(i storage.Info) error {
		if _, err := s.Get(t.Context(), i.Key, storage.Range{}, nil); err != nil {
			return err
		}
		if err := s.Put(t.Context(), "copy/"+i.Key, []byte("x")); err != nil {
			return err
		}
		return s.Delete(t.Context(), i.Key)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.wantList("", "copy/k/0", "copy/k/1", "copy/k/2", "copy/k/3", "copy/k/4")
}

func testListInfo(t *testing.T, s *suite) {
	s.put("one", "x")
	s.put("two/deep", string(pattern(12345)))
	var infos []storage.Info
	err := s.List(t.Context(), "", func(i storage.Info) error {
		if i.Key != storage.ConfigKey {
			infos = append(infos, i)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 2 || infos[0].Size != 1 || infos[1].Size != 12345 {
		t.Fatalf("listing %+v", infos)
	}
	for _, i := range infos {
		if i.ModTime.Before(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)) || i.ModTime.After(time.Now().Add(time.Hour)) {
			t.Errorf("%s was made at %v", i.Key, i.ModTime)
		}
	}
}

func testDelete(t *testing.T, s *suite) {
	s.put("d/a", "x")
	s.put("d/b", "x")
	for _, key := range []string{"d/a", "d/a", "d/absent", "no/such/dir", "d", "d/b/below"} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatalf("Delete %s: %v", key, err)
		}
	}
	s.wantList("", "d/b")
	s.want("d/b", "x")
	_, err := s.Get(t.Context(), "d/a", storage.Range{}, nil)
	s.wantErr("Get after Delete", err, storage.ErrNotExist)
}

func testPutAfterDelete(t *testing.T, s *suite) {
	s.put("p/q/r", "old")
	if err := s.Delete(t.Context(), "p/q/r"); err != nil {
		t.Fatal(err)
	}
	s.wantList("")
	s.put("p/q/r", "new")
	s.want("p/q/r", "new")
}

func testCancelled(t *testing.T, s *suite) {
	s.put("k", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, "k", storage.Range{}, nil)
	s.wantErr("Get", err, context.Canceled)
	s.wantErr("Put", s.Put(ctx, "new", nil), context.Canceled)
	s.wantErr("Delete", s.Delete(ctx, "k"), context.Canceled)
	for _, prefix := range []string{"", "k", "absent/"} {
		err := s.List(ctx, prefix, func(storage.Info) error { return nil })
		s.wantErr("List "+prefix, err, context.Canceled)
	}
	s.wantList("", "k")
}

func testCancelDuringList(t *testing.T, s *suite) {
	for i := range 50 {
		s.put(fmt.Sprintf("k/%02d", i), "x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	err := s.List(ctx, "k/", func(storage.Info) error {
		calls++
		cancel()
		return nil
	})
	s.wantErr("List", err, context.Canceled)
	if calls == 50 {
		t.Error("the listing went on to its end")
	}
}

func testInvalidKeys(t *testing.T, s *suite) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a", "a/.tmp", "a b", "a\\b", "a\x00b",
		"a:b", "ä", "a\n", "a*", string(bytes.Repeat([]byte("a"), 201)), string(bytes.Repeat([]byte("a/"), 400)) + "a",
	} {
		_, err := s.Get(t.Context(), key, storage.Range{}, nil)
		s.wantErr(fmt.Sprintf("Get %.20q", key), err, storage.ErrKey)
		s.wantErr(fmt.Sprintf("Put %.20q", key), s.Put(t.Context(), key, nil), storage.ErrKey)
		s.wantErr(fmt.Sprintf("Delete %.20q", key), s.Delete(t.Context(), key), storage.ErrKey)
	}
	for _, prefix := range []string{"/", "a//", "../", "a/../", "."} {
		err := s.List(t.Context(), prefix, func(storage.Info) error { return nil })
		s.wantErr("List "+prefix, err, storage.ErrKey)
	}
	s.wantList("")
}

// pattern is n bytes in which any two places differ in their neighbourhood.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8*31 ^ i>>16*17)
	}
	return b
}
