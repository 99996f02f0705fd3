package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStoredBundleIsTheBundle(t *testing.T) {
	owner := generate(t)
	for _, r := range []Role{Owner, Writer, Standby} {
		b := forRole(t, owner, r)
		plain, err := encodeBundle(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeBundle(plain)
		if err != nil {
			t.Fatal(err)
		}
		again, err := encodeBundle(got)
		if err != nil || !bytes.Equal(again, plain) {
			t.Errorf("%s: the bundle changed when it was stored: %v", r, err)
		}
		if got.Role != r || got.Name != b.Name || got.Repository != b.Repository || !got.Created.Equal(b.Created) ||
			got.ChunkKey != b.ChunkKey || got.MetaKey != b.MetaKey || got.DataKeys[0].Secret != b.DataKeys[0].Secret {
			t.Errorf("%s: other fields", r)
		}
		if got.Created.Location() != time.UTC {
			t.Errorf("created in %s", got.Created.Location())
		}
	}
}

// unsigned is a bundle as version 1 had them.
func unsigned(t testing.TB) *Bundle {
	t.Helper()
	b := generate(t)
	b.Common, b.Signing = b.MetaKey, Signing{}
	return b
}

// edit changes the JSON object of a bundle.
func edit(t *testing.T, plain []byte, f func(map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(plain, &m); err != nil {
		t.Fatal(err)
	}
	f(m)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMalformedBundlesAreRefusedWithoutQuotingThem(t *testing.T) {
	b := generate(t)
	plain, err := encodeBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	old, err := encodeBundle(unsigned(t))
	if err != nil {
		t.Fatal(err)
	}
	signing := func(m map[string]any) map[string]any { return m["signing"].(map[string]any) }
	dataKey := func(m map[string]any) map[string]any { return m["data_keys"].([]any)[0].(map[string]any) }
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":           {nil, ErrFormat},
		"no JSON":           {[]byte("AGE-SECRET-KEY-PQ-1"), ErrFormat},
		"cut off":           {plain[:len(plain)-1], ErrFormat},
		"bytes behind":      {append(bytes.Clone(plain), " {}"...), ErrFormat},
		"too large":         {append(bytes.Clone(plain), bytes.Repeat([]byte{' '}, maxBundle)...), ErrFormat},
		"newer":             {edit(t, plain, func(m map[string]any) { m["version"] = 3 }), ErrVersion},
		"no version":        {edit(t, plain, func(m map[string]any) { delete(m, "version") }), ErrVersion},
		"unknown field":     {edit(t, plain, func(m map[string]any) { m["extra"] = 1 }), ErrFormat},
		"role of another":   {edit(t, plain, func(m map[string]any) { m["role"] = "writer" }), ErrFormat},
		"short chunk key":   {edit(t, plain, func(m map[string]any) { m["id_key"] = "AAAA" }), ErrFormat},
		"no metadata key":   {edit(t, plain, func(m map[string]any) { delete(m, "meta_key") }), ErrFormat},
		"secret no base64":  {edit(t, plain, func(m map[string]any) { dataKey(m)["secret"] = "!" + dataKey(m)["secret"].(string)[1:] }), ErrFormat},
		"secret too short":  {edit(t, plain, func(m map[string]any) { dataKey(m)["secret"] = "AAAA" }), ErrFormat},
		"unknown algorithm": {edit(t, plain, func(m map[string]any) { dataKey(m)["algorithm"] = "rsa" }), ErrFormat},
		"long key ID":       {edit(t, plain, func(m map[string]any) { dataKey(m)["id"] = dataKey(m)["id"].(string) + "00" }), ErrFormat},
		"no key ID":         {edit(t, plain, func(m map[string]any) { dataKey(m)["id"] = "" }), ErrFormat},
		"old with group":    {edit(t, old, func(m map[string]any) { m["group"] = "b" }), ErrFormat},
		"old with common":   {edit(t, old, func(m map[string]any) { m["common_key"] = m["meta_key"] }), ErrFormat},
		"old as new":        {edit(t, old, func(m map[string]any) { m["version"] = 2 }), ErrFormat},
		"new as old":        {edit(t, plain, func(m map[string]any) { m["version"] = 1 }), ErrFormat},
		"no signing":        {edit(t, plain, func(m map[string]any) { delete(m, "signing") }), ErrFormat},
		"no root key":       {edit(t, plain, func(m map[string]any) { delete(signing(m), "root") }), ErrFormat},
		"empty root key":    {edit(t, plain, func(m map[string]any) { signing(m)["root"] = "" }), ErrFormat},
		"no root secret":    {edit(t, plain, func(m map[string]any) { delete(signing(m), "root_secret") }), ErrFormat},
		"short root secret": {edit(t, plain, func(m map[string]any) { signing(m)["root_secret"] = "AAAA" }), ErrFormat},
		"no signing key":    {edit(t, plain, func(m map[string]any) { delete(signing(m), "secret") }), ErrFormat},
		"no certificate":    {edit(t, plain, func(m map[string]any) { delete(signing(m), "certificate") }), ErrOrigin},
		"unknown signing":   {edit(t, plain, func(m map[string]any) { signing(m)["extra"] = 1 }), ErrFormat},
		"short common key":  {edit(t, plain, func(m map[string]any) { m["common_key"] = "AAAA" }), ErrFormat},
		"malformed group":   {edit(t, plain, func(m map[string]any) { m["groups"] = []any{map[string]any{"name": "b", "id_key": "AAAA"}} }), ErrFormat},
		"no data keys":      {edit(t, plain, func(m map[string]any) { m["data_keys"] = nil }), ErrFormat},
	} {
		_, err := decodeBundle(c.data)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		} else if leaks(err.Error(), b) {
			t.Errorf("%s: the error shows a secret", name)
		}
	}
}

func TestSigningIsIgnoredInVersion1(t *testing.T) {
	plain, err := encodeBundle(unsigned(t))
	if err != nil {
		t.Fatal(err)
	}
	signed := edit(t, plain, func(m map[string]any) { m["signing"] = map[string]any{"public": "AAAA"} })
	if _, err := decodeBundle(signed); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeBundle(f *testing.F) {
	owner := generate(f)
	for _, r := range []Role{Owner, Writer, Standby} {
		b := forRole(f, owner, r)
		plain, err := encodeBundle(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
		f.Add([]byte(strings.Replace(string(plain), `"version":2`, `"version":1`, 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBundle(data)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrOrigin) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		if err := b.Validate(); err != nil {
			t.Errorf("an invalid bundle was read: %v", err)
		}
		if _, err := encodeBundle(b); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}
