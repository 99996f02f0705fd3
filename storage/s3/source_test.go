package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgtrove/pgtrove/storage"
)

// lender gives keys for an hour, or fails.
type lender struct {
	credentials.Expiry
	asked int
	err   error
}

func (l *lender) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	l.asked++
	if l.err != nil {
		return credentials.Value{}, l.err
	}
	v := credentials.Value{AccessKeyID: fmt.Sprint(l.asked), SecretAccessKey: "secret", Expiration: time.Now().Add(time.Hour)}
	l.SetExpiration(v.Expiration, credentials.DefaultExpiryWindow)
	return v, nil
}

func (l *lender) Retrieve() (credentials.Value, error) { return l.RetrieveWithCredContext(nil) }

func TestKeysAreRenewedInTimeAndUsedToTheirEndIfThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lender{}
		keys := credentials.New(&source{provider: l, name: "the lender"})
		use := func(after time.Duration, want string, asked int) {
			t.Helper()
			time.Sleep(after)
			v, err := keys.GetWithContext(nil)
			if err != nil || v.AccessKeyID != want || l.asked != asked {
				t.Errorf("keys %s after %d questions, %v; want %s, %d", v.AccessKeyID, l.asked, err, want, asked)
			}
		}
		use(0, "1", 1)
		use(47*time.Minute, "1", 1)
		use(2*time.Minute, "2", 2) // at 49 minutes, of the first ones' 60
		l.err = errors.New("no")
		use(49*time.Minute, "2", 3)
		use(time.Second, "2", 3) // asked a moment ago
		use(time.Minute, "2", 4)
		l.err = nil
		use(time.Minute, "5", 5)
		l.err = &http.MaxBytesError{}
		time.Sleep(2 * time.Hour)
		var none *credentialError
		if _, err := keys.GetWithContext(nil); !errors.As(err, &none) {
			t.Errorf("keys that are over: %v", err)
		}
	})
}

// keyless is the failure of a request for want of keys. Nobody is asked for anything else.
func keyless(ctx context.Context, t *testing.T) error {
	t.Helper()
	if _, err := Open(Options{Location: Location{Bucket: "bucket"}}); err != nil {
		return err
	}
	s, err := Open(Options{Location: Location{Bucket: "bucket"}, Endpoint: "http://127.0.0.1:1"})
	if err == nil {
		_, err = s.Get(ctx, "k", storage.Range{}, nil)
	}
	if err == nil {
		t.Error("a request passed without keys")
	}
	return err
}

// TestAFailureToGetKeysIsMendedByTimeOrByAPerson: the class says which.
func TestAFailureToGetKeysIsMendedByTimeOrByAPerson(t *testing.T) {
	said := func(code, text string) error {
		var r credentials.ErrorResponse
		r.STSError.Code, r.STSError.Message = code, text
		return r
	}
	refused := &url.Error{Op: "Get", URL: "http://x", Err: syscall.ECONNREFUSED}
	busy := &url.Error{Op: "Get", URL: "http://x", Err: errBusy}
	ended := exec.Command("/bin/false").Run()
	for name, c := range map[string]struct {
		source source
		err    error
		want   error
	}{
		"nobody answers":                    {source{}, refused, storage.ErrUnreachable},
		"words that are none":               {source{}, errors.New("403 Forbidden"), storage.ErrDenied},
		"STS has too much to do":            {source{}, said("Throttling", "Rate exceeded"), storage.ErrUnreachable},
		"STS cannot ask the provider":       {source{}, said("IDPCommunicationError", ""), storage.ErrUnreachable},
		"the provider did not give its key": {source{}, said("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider,  please"), storage.ErrUnreachable},
		"a wrong token":                     {source{}, said("InvalidIdentityToken", "No OpenIDConnect provider found"), storage.ErrDenied},
		"an old token":                      {source{}, said("ExpiredTokenException", ""), storage.ErrDenied},
		"a program that fails":              {source{}, ended, storage.ErrDenied},
		"a program that fails, after keys":  {source{last: credentials.Value{AccessKeyID: "id"}}, ended, storage.ErrUnreachable},
		"a refusal, after keys":             {source{last: credentials.Value{AccessKeyID: "id"}}, errors.New("404 Not Found"), storage.ErrDenied},
		"nobody, after keys, of a guess":    {source{guess: true, silent: guessTries, last: credentials.Value{AccessKeyID: "id"}}, refused, storage.ErrUnreachable},
		"a guess that works not now":        {source{guess: true, silent: guessTries}, busy, storage.ErrUnreachable},
		"a guess that is silent":            {source{guess: true}, refused, storage.ErrUnreachable},
		"and again":                         {source{guess: true, silent: guessTries - 2}, refused, storage.ErrUnreachable},
		"and too often":                     {source{guess: true, silent: guessTries - 1}, refused, storage.ErrDenied},
	} {
		c.source.provider, c.source.name = &lender{err: c.err}, "the lender"
		_, err := c.source.Retrieve()
		if got := wrap(t.Context(), "get", "k", err); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestServicesThatCannotBeAskedAreWrongSettings, which no time mends.
func TestServicesThatCannotBeAskedAreWrongSettings(t *testing.T) {
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_STS": "sts.example.com", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "127.0.0.1:80",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "ftp://127.0.0.1", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "keys", "AWS_ENDPOINT_URL": "http://"} {
		withFiles(t, "", "")
		t.Setenv(name, value)
		if _, err := Open(Options{Location: Location{Bucket: "bucket"}, Endpoint: "http://127.0.0.1:1"}); !errors.Is(err, ErrOptions) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
		t.Setenv(name, "")
	}
}

// TestAServiceThatIsDownIsUnreachableAndOneThatRefusesIsNot: the one is waited for, and the other is for a person.
func TestAServiceThatIsDownIsUnreachableAndOneThatRefusesIsNot(t *testing.T) {
	for status, want := range map[int]error{500: storage.ErrUnreachable, 503: storage.ErrUnreachable, 429: storage.ErrUnreachable,
		400: storage.ErrDenied, 403: storage.ErrDenied, 404: storage.ErrDenied} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		defer server.Close()
		withFiles(t, "", "")
		for _, env := range []map[string]string{
			{"AWS_CONTAINER_CREDENTIALS_FULL_URI": server.URL + "/keys"},
			{"AWS_WEB_IDENTITY_TOKEN_FILE": os.DevNull, "AWS_ENDPOINT_URL_STS": server.URL},
		} {
			for k, v := range env {
				t.Setenv(k, v)
			}
			err := keyless(t.Context(), t)
			if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), fmt.Sprint(status)) && want == storage.ErrUnreachable {
				t.Errorf("%v, answer %d: %v, want %v", env, status, err, want)
			}
			for k := range env {
				t.Setenv(k, "")
			}
		}
	}
}

func TestAServiceThatSaysNothingEndsWithTheContext(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gone }))
	defer server.Close()
	defer close(gone)
	withFiles(t, "", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := keyless(ctx, t); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestKeysThatAreOverAreExchangedWhileTheStoreIsInUse: each answer of the service is over when it comes, and names another key.
func TestKeysThatAreOverAreExchangedWhileTheStoreIsInUse(t *testing.T) {
	asked := 0
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		fmt.Fprintf(w, `{"AccessKeyId":"key%d","SecretAccessKey":"s","Token":"session%d","Expiration":%q}`, asked, asked, time.Now().Add(-time.Minute).UTC().Format(time.RFC3339))
	}))
	defer service.Close()
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		key, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential="), "/")
		seen = append(seen, key+" "+r.Header.Get("X-Amz-Security-Token"))
	}))
	defer server.Close()
	withFiles(t, "", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.URL)
	s, err := Open(Options{Location: Location{Bucket: "bucket"}, Endpoint: server.URL})
	for n := 1; err == nil && n <= 2; n++ {
		if err = s.Put(t.Context(), fmt.Sprint(n), nil); err == nil && seen[len(seen)-1] != fmt.Sprintf("key%d session%[1]d", n) {
			t.Errorf("put %d was signed with %s", n, seen)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	service.Close()
	if err := s.Put(t.Context(), "k", nil); !errors.Is(err, storage.ErrUnreachable) || len(seen) != 2 {
		t.Errorf("without keys: %v, %s", err, seen)
	}
}

func TestACredentialProcessRunsAsOftenAsItsKeysNeed(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	for name, c := range map[string]struct {
		print string
		runs  int
		fails string // what the error says
	}{
		"keys without an end":  {`{"Version":1,"AccessKeyId":"id","SecretAccessKey":"hunter2"}`, 1, ""},
		"keys for a long time": {`{"Version":1,"AccessKeyId":"id","SecretAccessKey":"hunter2","SessionToken":"hunter2","Expiration":"2999-01-01T00:00:00Z"}`, 1, ""},
		"keys that are over":   {`{"Version":1,"AccessKeyId":"id","SecretAccessKey":"hunter2","Expiration":"2001-01-01T00:00:00Z"}`, 3, ""},
		"another version":      {`{"Version":2,"AccessKeyId":"id","SecretAccessKey":"hunter2"}`, 1, "version 1"},
		"no JSON":              {`hunter2`, 1, "version 1"},
		"no secret":            {`{"Version":1,"AccessKeyId":"id"}`, 1, "not both there"},
		"a wrong date":         {`{"Version":1,"AccessKeyId":"id","SecretAccessKey":"hunter2","Expiration":"tomorrow"}`, 1, "version 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(count)
			keys := credentials.New(&source{provider: &process{command: "echo x >> " + count + "; echo '" + c.print + "'"}, name: "the program"})
			var err error
			for range 3 {
				if _, err = keys.GetWithContext(nil); err != nil {
					break
				}
			}
			text, _ := os.ReadFile(count)
			if n := strings.Count(string(text), "x"); n != c.runs || (err == nil) != (c.fails == "") || !strings.Contains(fmt.Sprint(err), c.fails) && err != nil {
				t.Errorf("%d runs, %v; want %d, %q", n, err, c.runs, c.fails)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
	_, err := (&source{provider: &process{command: "echo hunter2; echo log in first >&2; exit 3"}, name: "the program"}).Retrieve()
	if err == nil || !strings.Contains(err.Error(), "exit status 3: log in first") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&process{command: "sleep 60 & wait"}).RetrieveWithCredContext(&credentials.CredContext{Context: ctx}); err == nil {
		t.Error("a program that does not end gave keys")
	}
}

// TestWhatAProfileAsksForAndWeCannotDoIsSaid, and no other place is asked for keys.
func TestWhatAProfileAsksForAndWeCannotDoIsSaid(t *testing.T) {
	for config, say := range map[string]string{
		"role_arn = arn\nsource_profile = q\naws_access_key_id = id\naws_secret_access_key = s\n": "assumes a role with the keys of another place",
		"role_arn = arn\ncredential_source = Ec2InstanceMetadata\n":                               "assumes a role with the keys of another place",
		"login_session = arn:aws:iam::1:user/x\n":                                                 "aws login",
		"sso_session = mine\nsso_account_id = 1\n":                                                "sso_role_name",
		"sso_session = mine\nsso_account_id = 1\nsso_role_name = r\nsso_region = eu-west-1\n":     "aws sso login",
		"aws_secret_access_key = hunter2\n":                                                       "not both there",
		"use_fips_endpoint = true\naws_access_key_id = id\naws_secret_access_key = hunter2\n":     "s3-fips",
		"role_arn = arn\nweb_identity_token_file = /dev/null\n":                                   "AWS_ROLE_ARN names another",
	} {
		withFiles(t, "[profile p]\n"+config, "")
		t.Setenv("HOME", t.TempDir())
		t.Setenv("AWS_PROFILE", "p")
		t.Setenv("AWS_ROLE_ARN", "other")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1") // nobody
		err := keyless(t.Context(), t)
		if err == nil || !strings.Contains(err.Error(), say) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", config, err)
		}
	}
}

func TestAProfileSaysHowBucketsAreNamed(t *testing.T) {
	for style, want := range map[string]Addressing{"path": AddressPath, "virtual": AddressHost, "auto": AddressAuto} {
		withFiles(t, "[default]\ns3 =\n  max_concurrent_requests = 2\n  addressing_style = "+style+"\nrequest_checksum_calculation = WHEN_REQUIRED\n", "")
		p, err := loadProfile("", "")
		if err != nil || p.addressing() != want {
			t.Errorf("%s: %q, %v", style, p.addressing(), err)
		}
		if put, err := (Options{}).putSettings(p); err != nil || put.checksum != checksumNone {
			t.Errorf("%+v, %v", put, err)
		}
	}
}
