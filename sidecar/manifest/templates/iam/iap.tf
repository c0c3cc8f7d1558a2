resource "google_iap_web_backend_service_iam_member" "$label" {
  web_backend_service = "$service"
  role                = "$role"
  member              = "$member"
}
