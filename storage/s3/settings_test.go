package s3

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

func TestAddressesAreReadAndWritten(t *testing.T) {
	for s, want := range map[string]Location{
		"s3://bucket":              {"bucket", ""},
		"s3://bucket/":             {"bucket", ""},
		"s3://my.bucket-1/a":       {"my.bucket-1", "a"},
		"s3://bucket/prod/eu_1.x/": {"bucket", "prod/eu_1.x"},
	} {
		got, err := ParseLocation(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if again, err := ParseLocation(got.String()); err != nil || again != got {
			t.Errorf("%s is written %s and read %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{
		"", "bucket", "/bucket", "S3://bucket", "https://bucket/x", "s3://", "s3:///x", "s3://b", "s3://bucket//x", "s3://bucket/x//y", "s3://bucket/.x",
		"s3://bucket/../y", "s3://bucket/x?region=eu", "s3://bucket/ä", "s3://buc ket/x", "s3://bucket/" + strings.Repeat("x/", 200),
		"s3://key:hunter2@bucket/x", "s3://host:9000/bucket",
	} {
		got, err := ParseLocation(s)
		if !errors.Is(err, ErrOptions) {
			t.Errorf("%q: %+v, %v", s, got, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

// withFiles clears the environment of AWS's variables, and makes these the shared files.
func withFiles(t *testing.T, config, keys string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	dir := t.TempDir()
	for variable, content := range map[string]string{"AWS_CONFIG_FILE": config, "AWS_SHARED_CREDENTIALS_FILE": keys} {
		path := filepath.Join(dir, variable)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(variable, path)
	}
}

const sharedConfig = `
[default]
region = eu-north-1
[profile plain]
region = eu-west-1
endpoint_url = http://plain.example:9000
[profile services]
services = mine
endpoint_url = http://all.example
[services mine]
dynamodb =
  endpoint_url = http://dynamodb.example
s3 =
  endpoint_url = http://s3.example/
[services other]
s3 =
  endpoint_url = http://wrong.example
`

func TestEnvironmentAndProfileSayEndpointAndRegion(t *testing.T) {
	for name, c := range map[string]struct {
		o                Options
		env              map[string]string
		endpoint, region string
		lookup           minio.BucketLookupType
	}{
		"the default profile": {Options{}, nil, "https://s3.amazonaws.com", "eu-north-1", minio.BucketLookupAuto},
		"a profile":           {Options{}, map[string]string{"AWS_PROFILE": "plain"}, "http://plain.example:9000", "eu-west-1", minio.BucketLookupPath},
		"a profile with services": {Options{Profile: "services"}, map[string]string{"AWS_PROFILE": "plain"},
			"http://s3.example/", "us-east-1", minio.BucketLookupPath},
		"the environment before the profile": {Options{Profile: "services"},
			map[string]string{"AWS_ENDPOINT_URL": "https://env.example", "AWS_DEFAULT_REGION": "r1"}, "https://env.example", "r1", minio.BucketLookupPath},
		"the nearer variable": {Options{}, map[string]string{"AWS_ENDPOINT_URL": "https://env.example",
			"AWS_ENDPOINT_URL_S3": "https://s3.env.example", "AWS_REGION": "r2", "AWS_DEFAULT_REGION": "r1"},
			"https://s3.env.example", "r2", minio.BucketLookupPath},
		"the options before all": {Options{Endpoint: "https://o.example", Region: "r3", Addressing: AddressHost},
			map[string]string{"AWS_ENDPOINT_URL_S3": "https://s3.env.example", "AWS_REGION": "r2"}, "https://o.example", "r3", minio.BucketLookupDNS},
		"configured endpoints ignored": {Options{Profile: "plain"}, map[string]string{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
			"https://s3.amazonaws.com", "eu-west-1", minio.BucketLookupAuto},
		"a region of AWS in the endpoint": {Options{Endpoint: "https://s3.eu-central-1.amazonaws.com", Profile: "services"}, nil,
			"https://s3.eu-central-1.amazonaws.com", "eu-central-1", minio.BucketLookupAuto},
	} {
		t.Run(name, func(t *testing.T) {
			withFiles(t, sharedConfig, "")
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			p, err := loadProfile(c.o.Profile, "")
			if err != nil {
				t.Fatal(err)
			}
			u, err := c.o.endpoint(p)
			if err != nil {
				t.Fatal(err)
			}
			lookup, err := c.o.lookup(u)
			if r := c.o.region(p, u); err != nil || u.String() != c.endpoint || r != c.region || lookup != c.lookup {
				t.Errorf("%s in %q, lookup %v, %v", u, r, lookup, err)
			}
		})
	}
}

func TestWrongSettingsAreRefused(t *testing.T) {
	here := Location{Bucket: "bucket"}
	keys := Credentials{AccessKey: "id", SecretKey: "hunter2"}
	for name, c := range map[string]struct {
		o            Options
		env          map[string]string
		config, keys string
	}{
		"half a key":                 {env: map[string]string{"AWS_ACCESS_KEY_ID": "id"}},
		"the other half":             {env: map[string]string{"AWS_SECRET_ACCESS_KEY": "hunter2"}},
		"half a key in a profile":    {keys: "[default]\naws_access_key_id = id\n"},
		"no keys":                    {env: map[string]string{"AWS_EC2_METADATA_DISABLED": "true"}},
		"a profile not there":        {o: Options{Credentials: keys}, env: map[string]string{"AWS_PROFILE": "absent"}},
		"a profile without keys":     {o: Options{Profile: "p"}, config: "[profile p]\nregion = x\n"},
		"a role of another profile":  {o: Options{Profile: "p"}, config: "[profile p]\nrole_arn = arn\nsource_profile = q\n"},
		"a file that is none":        {keys: "[default]\naws_secret_access_key hunter2\n"},
		"a section that is none":     {keys: "[default\nhunter2\n"},
		"a password in the endpoint": {o: Options{Credentials: keys, Endpoint: "https://id:hunter2@host"}},
		"a password in a wrong one":  {o: Options{Credentials: keys, Endpoint: "https://id:hunter2@host:port"}},
		"an endpoint without scheme": {o: Options{Credentials: keys, Endpoint: "host:9000"}},
		"an endpoint with a path":    {o: Options{Credentials: keys, Endpoint: "https://host/bucket"}},
		"another scheme":             {o: Options{Credentials: keys, Endpoint: "ftp://host"}},
		"a checksum":                 {o: Options{Credentials: keys, Checksum: "sha3"}},
		"an encryption":              {o: Options{Credentials: keys, Encrypt: "rot13"}},
		"an addressing":              {o: Options{Credentials: keys, Addressing: "guess"}},
		"a negative lock":            {o: Options{Credentials: keys, ObjectLock: -1}},
		"a CA file that is absent":   {o: Options{Credentials: keys, CAFile: "/no/such/file"}},
		"a CA file that is none":     {o: Options{Credentials: keys, CAFile: "/dev/null"}},
	} {
		t.Run(name, func(t *testing.T) {
			withFiles(t, c.config, c.keys)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			c.o.Location = here
			s, err := Open(c.o)
			if s != nil || !errors.Is(err, ErrOptions) {
				t.Fatalf("%v, %v", s, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a secret: %v", err)
			}
			t.Log(err)
		})
	}
}

func TestCredentialsDoNotShowTheirSecret(t *testing.T) {
	o := Options{Credentials: Credentials{"id", "hunter2", "hunter3"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{o, &o, o.Credentials, &o.Credentials, []Credentials{o.Credentials}} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "hunter") || strings.Contains(text, "68756e74") {
				t.Errorf("%s of %T: %s", verb, v, text)
			}
		}
	}
}

func TestALockOrACallerWithoutChecksums(t *testing.T) {
	withFiles(t, "", "")
	for _, c := range []struct {
		o    Options
		env  string
		want string
	}{
		{Options{}, "", "crc32c"}, {Options{}, "when_supported", "crc32c"}, {Options{}, "when_required", "none"},
		{Options{Checksum: "crc32c"}, "when_required", "crc32c"}, {Options{Checksum: "none", ObjectLock: time.Hour}, "", "md5"},
	} {
		t.Setenv("AWS_REQUEST_CHECKSUM_CALCULATION", c.env)
		if s, err := c.o.putSettings(profile{}); err != nil || s.checksum != c.want {
			t.Errorf("%+v %s: %+v, %v", c.o, c.env, s, err)
		}
	}
}
