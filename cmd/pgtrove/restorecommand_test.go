package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/storage/s3"
)

func TestRestoreCommandFindsTheBucketAgain(t *testing.T) {
	var said bytes.Buffer
	a := &app{out: &output{stderr: &said}, env: environmentOf(map[string]string{
		"AWS_ENDPOINT_URL": "https://minio:9000", "AWS_REGION": "eu-1", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hidden-key",
	})}
	a.settings = settings{Repo: "s3://bucket/fleet/", KeyFile: "/key", Storage: storageSettings{S3: s3.Options{Region: "us-2"}}}
	got, err := a.restoreCommand("main")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" --repo s3://bucket/fleet ", " --s3-endpoint https://minio:9000 ", " --s3-region us-2 "} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
	if strings.Contains(got, "AKIA") || strings.Contains(got+said.String(), "hidden-key") {
		t.Errorf("keys are shown: %s\n%s", got, said.String())
	}
	if !strings.Contains(said.String(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("nobody is told where the server gets its keys: %s", said.String())
	}
	a.settings.Repo = "/directory"
	if got, err := a.restoreCommand("main"); err != nil || strings.Contains(got, "s3") {
		t.Errorf("%s, %v", got, err)
	}
}
