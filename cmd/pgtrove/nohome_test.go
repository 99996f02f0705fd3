package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Debian starts servers without HOME, and their archive_command has none.
func TestTheProfileOfAnAccountIsFoundWithoutHOME(t *testing.T) {
	for _, name := range []string{"HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		t.Setenv(name, "") // which restores it afterwards
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".aws", "config"), []byte("[default]\nendpoint_url = http://127.0.0.1:7\nregion = x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newApp()
	a.env.accountHome = func() (string, error) { return home, nil }
	s, err := a.openS3("s3://bucket/prefix")
	if err != nil {
		t.Fatal(err)
	}
	if place := s.Place(); !strings.HasPrefix(place, "http://127.0.0.1:7/") {
		t.Errorf("the endpoint of the account's profile is not used: %s", place)
	}
	a.env.accountHome = func() (string, error) { return "", errors.New("no account") }
	if _, err := a.openS3("s3://bucket/prefix"); err != nil {
		t.Errorf("an account without a home: %v", err)
	}
}
