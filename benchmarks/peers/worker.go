// A worker as a user of amqp091-go, net/http and goquery would write it.
//
// May touch: the queues named in its environment, the pages that jobs name.
// Must never: ack a job before its result is confirmed.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/PuerkitoBio/goquery"
	amqp "github.com/rabbitmq/amqp091-go"
)

type job struct {
	URL string `json:"url"`
}

type result struct {
	URL   string   `json:"url"`
	Title string   `json:"title"`
	Links []string `json:"links"`
	Body  string   `json:"body,omitempty"`
}

var withBody = os.Getenv("BENCH_BODY") == "1"

func main() {
	prefix := os.Getenv("BENCH_PREFIX")
	concurrency, err := strconv.Atoi(os.Getenv("BENCH_CONCURRENCY"))
	must(err)
	connection, err := amqp.Dial(os.Getenv("BENCH_BROKER_URL"))
	must(err)
	channel, err := connection.Channel()
	must(err)
	must(channel.Confirm(false))
	must(channel.Qos(concurrency, 0, false))
	deliveries, err := channel.Consume(prefix+".jobs", "worker", false, false, false, false, nil)
	must(err)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, concurrency
	client := &http.Client{Transport: transport}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() { <-stop; must(channel.Cancel("worker", false)) }()
	fmt.Println("READY")
	var flights sync.WaitGroup
	for delivery := range deliveries {
		flights.Add(1)
		go func(delivery amqp.Delivery) {
			defer flights.Done()
			if err := work(client, channel, prefix+".results", delivery); err != nil {
				log.Print(err)
				must(delivery.Nack(false, false))
				return
			}
			must(delivery.Ack(false))
		}(delivery)
	}
	flights.Wait()
	must(connection.Close())
}

// work returns once the broker has confirmed the result of the job.
func work(client *http.Client, channel *amqp.Channel, to string, delivery amqp.Delivery) error {
	var asked job
	if err := json.Unmarshal(delivery.Body, &asked); err != nil {
		return err
	}
	response, err := client.Get(asked.URL)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", asked.URL, response.Status)
	}
	page, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	found, err := take(response, page)
	if err != nil {
		return err
	}
	found.URL = asked.URL
	body, err := json.Marshal(found)
	if err != nil {
		return err
	}
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(context.Background(), to, "ok", false, false,
		amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: body})
	if err != nil {
		return err
	}
	if !confirmation.Wait() {
		return fmt.Errorf("%s: the result was refused", asked.URL)
	}
	return nil
}

// take returns the title and all links, absolute.
func take(response *http.Response, page []byte) (*result, error) {
	document, err := goquery.NewDocumentFromReader(bytes.NewReader(page))
	if err != nil {
		return nil, err
	}
	found := &result{Title: document.Find("title").First().Text(), Links: []string{}}
	document.Find("a[href]").Each(func(_ int, link *goquery.Selection) {
		if to, err := response.Request.URL.Parse(link.AttrOr("href", "")); err == nil {
			found.Links = append(found.Links, to.String())
		}
	})
	if withBody {
		found.Body = string(page)
	}
	return found, nil
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
