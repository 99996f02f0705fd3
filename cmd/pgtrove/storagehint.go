package main

import "github.com/pgtrove/pgtrove/storage/s3"

// The hints for errors of object storage. They are "" for those of other storage.

func optionsHint(err error) string {
	if name := s3.MissingKey(err); name != "" {
		return "set " + name + ", too: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together"
	}
	return ""
}

func unreachableHint(err error) string {
	_, throttled := s3.IsThrottled(err)
	switch {
	case s3.IsOfKeys(err):
		return "the storage was not asked: what gives this account its keys does not answer (a role's service, or a credential_process)"
	case throttled:
		return "the object storage has too much to do: run the command again later, or let it try for longer (--retry-time)"
	case s3.IsUntrusted(err):
		return "give the certificate of the authority that signed the storage's (--s3-ca-file, AWS_CA_BUNDLE): a file in PEM"
	case s3.IsSkewed(err):
		return "is this host's clock right? If so the certificate of the storage has ended: ask who runs it"
	case s3.MayBeTLS(err):
		return "is it https://? The endpoint (--s3-endpoint, AWS_ENDPOINT_URL) says http://. Else: does it answer from this host?"
	case s3.Speaks(err):
		return "does the object storage's endpoint (--s3-endpoint, AWS_ENDPOINT_URL) answer from this host?"
	}
	return ""
}

func readOnlyHint(err error) string {
	if s3.Speaks(err) {
		return "the object storage takes no writes at present: ask who runs it"
	}
	return ""
}

func deniedHint(err error) string {
	if h := notOfRights(err); h != "" || !s3.Speaks(err) {
		return h
	}
	return "check the keys that this account uses (AWS_*, ~/.aws, a role of the machine) and what the bucket's policy gives them; docs/object-storage.md has the policies"
}

// notOfRights is the hint where access is denied for another reason than what an account may do.
func notOfRights(err error) string {
	switch {
	case s3.IsSkewed(err):
		return "set this host's clock: requests are signed with the time, and the storage's is another"
	case s3.IsExpired(err):
		return "the keys were temporary, and their time is over: renew the session token and the keys with it (AWS_SESSION_TOKEN), or let a role or a credential_process give them"
	case s3.IsArchived(err):
		return "the object is in an archive class: restore it there, and take away the rule that moves objects so (docs/object-storage.md, \"Rules of the bucket\")"
	}
	return ""
}
