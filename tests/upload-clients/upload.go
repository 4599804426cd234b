// Uploads files as programs in Go do, with nothing but the standard library: with a form that is in memory, and with one
// that is written while it is sent. It gets the address of the attachments of a chat and the headers of a caller as JSON,
// and prints one line of JSON per upload.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"strings"
)

const limit = 1 << 20

var (
	url     string
	headers map[string]string
	quotes  = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
)

type file struct {
	name        string
	content     []byte
	contentType string
}

// write writes a form with the file, as CreateFormFile does, but with the type of the file.
func (file file) write(form *multipart.Writer) error {
	head := textproto.MIMEHeader{}
	head.Set("Content-Disposition", fmt.Sprintf(`form-data; name="file"; filename="%s"`, quotes.Replace(file.name)))
	head.Set("Content-Type", file.contentType)
	part, err := form.CreatePart(head)
	if err != nil {
		return err
	}
	if _, err := io.Copy(part, bytes.NewReader(file.content)); err != nil {
		return err
	}
	return form.Close()
}

// buffered is a whole form, whose length the client announces.
func buffered(file file) (io.Reader, string) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	if err := file.write(form); err != nil {
		log.Fatal(err)
	}
	return &body, form.FormDataContentType()
}

// piped is a form that is written while it is sent, in chunks.
func piped(file file) (io.Reader, string) {
	reader, writer := io.Pipe()
	form := multipart.NewWriter(writer)
	go func() { writer.CloseWithError(file.write(form)) }()
	return reader, form.FormDataContentType()
}

func upload(client, name string, body io.Reader, contentType string) {
	request, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		log.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatalf("%s %s: %v", client, name, err)
	}
	defer response.Body.Close()
	var answer any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		log.Fatalf("%s %s: %v", client, name, err)
	}
	line := map[string]any{"client": client, "case": name, "status": response.StatusCode, "answer": answer}
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

func main() {
	url = os.Args[1]
	if err := json.Unmarshal([]byte(os.Args[2]), &headers); err != nil {
		log.Fatal(err)
	}
	cases := []struct {
		name string
		file file
	}{
		{"text", file{"notes.txt", []byte("a text\r\n"), "text/plain"}},
		{"name", file{"grüße 🦀.md", []byte("# title"), "text/markdown"}},
		{"quoted", file{`a "quoted" name.md`, []byte("# title"), "text/markdown"}},
		{"empty", file{"a.txt", nil, "text/plain"}},
		{"type", file{"a.zip", []byte("PK\x03\x04"), "application/zip"}},
		{"large", file{"a.txt", bytes.Repeat([]byte("x"), 20*limit), "text/plain"}},
	}
	for _, it := range cases {
		body, contentType := buffered(it.file)
		upload("go buffer", it.name, body, contentType)
		body, contentType = piped(it.file)
		upload("go pipe", it.name, body, contentType)
	}
}
