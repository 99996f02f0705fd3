package s3test

import (
	"bytes"
	"os"
	"path/filepath"
)

func (s *Server) accessLog() string { return filepath.Join(s.Dir, "requests") }

// Requests is how many requests the server has answered since New, of all accounts. It needs Options.Log.
func (s *Server) Requests() int {
	s.t.Helper()
	text, err := os.ReadFile(s.accessLog())
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes.Count(text, []byte{'\n'})
}
